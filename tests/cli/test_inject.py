"""`--inject`: faults are made where the user says, said aloud, recorded, and refused where they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aprtui.cli.main import cli
from aprtui.errors import UsageError
from aprtui.trace.manifest import read_manifest


def trace(directory: Path, *arguments: str) -> Result:
    words = ["trace", "-p", "x = 1", "--save-tensor-dir", str(directory), *arguments]
    return CliRunner().invoke(cli, words, standalone_mode=False)


def test_an_injected_fault_is_said_and_recorded(tmp_path: Path) -> None:
    fault = "layer=1,stage=attn_out,kind=scale,magnitude=0.25"
    result = trace(tmp_path / "a", "--inject", fault)
    assert result.exception is None
    assert f"injected fault: {fault}" in result.stderr
    manifest = read_manifest(tmp_path / "a")
    assert manifest is not None and manifest.engine.faults == (fault,)


def test_kinds_are_listed_without_a_prompt() -> None:
    result = CliRunner().invoke(cli, ["trace", "--inject", "kind=?"], standalone_mode=False)
    assert isinstance(result.exception, UsageError) and "scale: a missing or doubled factor" in str(result.exception)


def test_a_fault_changes_what_is_generated() -> None:
    words = ["run", "-p", "def fib(n):", "-n", "8", "--temp", "0", "--backend", "cpu"]
    honest = CliRunner().invoke(cli, words, standalone_mode=False)
    faulty = CliRunner().invoke(
        cli, [*words, "--inject", "layer=0,stage=ffn_out,kind=scale,magnitude=9"], standalone_mode=False
    )
    assert honest.exception is None and faulty.exception is None
    assert honest.stdout != faulty.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layer=1,stage=ffn_up,kind=?", "bias-dropped: a tensor that is not loaded"),
        ("layer=1,stage=nothing,kind=scale", "this model has embedding"),
        ("layer=9,stage=ffn_up,kind=scale", "is in layers 0 … 3"),
        ("stage=ffn_up,kind=scale", "layer is missing"),
        ("layer=1,stage=lm_head,kind=scale", "leave layer= out"),
        ("layer=1,stage=ffn_up,kind=eps", "it applies at attn_norm, ffn_norm, final_norm"),
        ("layer=1,stage=ffn_up,kind=scale,factor=2", "scale takes no 'factor'"),
        ("layer=1,stage=ffn_up,kind=scale,magnitude=nan", "needs a finite number"),
        ("layer=1,stage=ffn_up,kind=nan,token=-1", "a whole number from 0 on"),
        ("layer=1,stage=ffn_up,kind=fp16-overflow,limit=0", "a finite number above 0"),
        ("layer=1,stage=ffn_up,kind=nan,channel=768", "ffn_up has 768 of them"),
        ("layer=1,layer=2,stage=ffn_up,kind=nan", "given twice"),
        ("nonsense", "expected layer=N"),
        ("", "expected layer=N"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_what_could(tmp_path: Path, text: str, said: str) -> None:
    result = trace(tmp_path / "a", "--inject", text)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)
    assert not (tmp_path / "a").exists()
