"""Commands on models in aprender's format: what they say and write is what they do of the same model in GGUF."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.errors import ExitCode
from aprtui.model.apr.apr_file import AprFile
from aprtui.resources import embedded_model
from tests.cli.conftest import Outcome
from tests.cli.test_bad_input import assert_one_line
from tests.model.apr_files import AprModel, apr_model, write_gguf

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[AprModel, Path]:
    model = apr_model(embedded_model())
    return model, model.write(tmp_path_factory.mktemp("apr") / "demo.apr")


def stage_files(capture: Path) -> dict[str, bytes]:
    return {
        path.relative_to(capture).as_posix(): path.read_bytes() for path in capture.rglob("*") if path.suffix == ".bin"
    }


def test_tokens_and_captures_are_those_of_the_gguf_file(
    aprtui: Run, tmp_path: Path, demo: tuple[AprModel, Path]
) -> None:
    """The demo model to `.apr`, and from there to GGUF again."""
    again = write_gguf(AprFile(demo[1]), tmp_path / "again.gguf")
    tokens, captures = [], []
    for number, model in enumerate((embedded_model(), demo[1], again)):
        run = aprtui("run", model, "-p", "def fib(n):", "-n", "8", "--temp", "0", "--json")
        tokens.append([json.loads(line).get("id") for line in run.out.splitlines()])
        folder = tmp_path / str(number)
        trace = aprtui("trace", model, "-p", "def fib(n):", "--generate", "2", "--save-tensor-dir", folder)
        assert run.code == trace.code == ExitCode.PASS, trace.err
        captures.append(stage_files(folder))
    assert tokens[0] == tokens[1] == tokens[2] and len(tokens[0]) == 9
    assert len(captures[0]) > 50
    assert captures[0] == captures[1] == captures[2]
    replay = aprtui("replay", tmp_path / "0", "--model", demo[1], "--json")
    assert replay.code == ExitCode.PASS and '"verdict": "PASS"' in replay.out


def test_weights_facts_and_tensors_are_those_of_the_gguf_file(aprtui: Run, demo: tuple[AprModel, Path]) -> None:
    path = demo[1]
    weights = aprtui("diff", "--weights", embedded_model(), path)
    assert weights.code == ExitCode.PASS, weights.out
    lines = aprtui("info", path).out.splitlines()
    assert any(line.startswith("architecture") and "qwen2" in line for line in lines)
    ours, original = (
        {record["tensor"]: record for record in map(json.loads, aprtui("stats", model, "--json").out.splitlines())}
        for model in (path, embedded_model())
    )
    assert ours == original


def test_an_apr_file_that_cannot_be_read_is_one_line(aprtui: Run, tmp_path: Path, demo: tuple[AprModel, Path]) -> None:
    model, path = demo
    compressed = replace(model, flags=model.flags | 2).write(tmp_path / "z.apr")
    half = tmp_path / "half.apr"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    old = tmp_path / "old.apr"
    old.write_bytes(b"APR1" + bytes(100))
    for command in (("run", "-p", "x"), ("info",), ("trace", "-p", "x"), ("qa",)):
        assert_one_line(
            aprtui(command[0], compressed, *command[1:]), ExitCode.UNREADABLE, str(compressed), "compressed"
        )
        assert_one_line(aprtui(command[0], old, *command[1:]), ExitCode.UNREADABLE, str(old), "version 1")
    for command in (("run", "-p", "x"), ("info",)):
        assert_one_line(aprtui(command[0], half, *command[1:]), ExitCode.UNREADABLE, str(half), "truncated")
