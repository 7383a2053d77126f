from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from aprtui.cli.main import cli
from aprtui.cli.open import _with_path_of_model
from aprtui.cli.options import ModelParameter
from aprtui.errors import ExitCode
from aprtui.resources import kernel_cache
from tests.cli.conftest import Outcome
from tests.cli.test_bad_input import assert_one_line
from tests.model.gguf_files import model_file

Run = Callable[..., Outcome]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory whose `~/.apr/models` has a model that runs, one that does not, and a broken one."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    folder = home / ".apr" / "models"
    folder.mkdir(parents=True)
    monkeypatch.setenv("APRTUI_CACHE_DIR", str(kernel_cache().parent))  # where kernels are compiled already
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("APRTUI_CONFIG", str(home / "config.toml"))
    monkeypatch.chdir(work)
    model_file().write(folder / "tiny.gguf")
    model_file().write_parts(folder, 2, "split")
    strange = model_file()
    strange.metadata["general.architecture"] = "clip"
    strange.write(folder / "projector.gguf")
    (folder / "half.gguf").write_bytes((folder / "tiny.gguf").read_bytes()[:100_000])
    return home


def records(outcome: Outcome) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in outcome.out.splitlines()]
    return {record["name"]: record for record in found}


def test_models_are_listed_with_what_they_are_and_why_they_cannot_be_run(aprtui: Run, home: Path) -> None:
    (home / "config.toml").write_text('[models]\ndefault = ["half", "tiny"]\n[aliases]\nt = "tiny"\n')
    outcome = aprtui("models", "--json")
    assert outcome.code == ExitCode.PASS and outcome.err == ""
    found = records(outcome)
    assert [record["runs"] for record in found.values()] == sorted((r["runs"] for r in found.values()), reverse=True)
    assert {name for name, record in found.items() if record["runs"]} >= {"tiny", "split", "demo-qwen2-q4km"}
    tiny = home / ".apr" / "models" / "tiny.gguf"
    expected = {
        "path": str(tiny), "place": "apr", "files": 1, "bytes": tiny.stat().st_size, "architecture": "qwen2",
        "quantization": "Q4_K", "problem": None, "aliases": ["t"], "default": True,
    }  # fmt: skip
    assert {key: found["tiny"][key] for key in expected} == expected
    assert found["split"]["files"] == 2
    assert "general.architecture is 'clip'" in found["projector"]["problem"]
    assert "truncated" in found["half"]["problem"] and not found["half"]["default"]


def test_an_alias_that_leads_nowhere_is_said(aprtui: Run, home: Path) -> None:
    (home / "file").touch()
    (home / "config.toml").write_text('[aliases]\na = "TINY"\nb = "gone"\nc = "file"\n')
    outcome = aprtui("models")
    assert outcome.code == ExitCode.PASS
    assert outcome.err == (
        f"aprtui: b: alias of gone, which is neither a file nor the name of a model: "
        f"correct it in {home / 'config.toml'}\n"
    )


def test_the_list_has_a_line_for_each_and_the_reasons_below(aprtui: Run, home: Path) -> None:
    lines = aprtui("models").out.splitlines()
    assert lines[0].split() == ["name", "architecture", "types", "size", "path"]
    at = next(index for index, line in enumerate(lines) if line.startswith("projector "))
    assert "clip" in lines[at] and lines[at + 1].startswith("  cannot be run: general.architecture is 'clip'")
    assert any(line.startswith("split ") and line.endswith("(2 files)") for line in lines)
    assert any(line.startswith("demo-qwen2-q4km ") for line in lines)


def test_a_broken_configuration_is_one_line(aprtui: Run, home: Path) -> None:
    (home / "config.toml").write_text("[models]\nfolders = 3\n")
    assert_one_line(aprtui("models"), ExitCode.USAGE, "config.toml", "[models] folders")
    (home / "config.toml").write_text('[models]\ndefault = "gone"\n')
    outcome = aprtui("models")
    assert outcome.code == ExitCode.PASS and "none can be run: gone: not found" in outcome.err
    assert_one_line(aprtui("info"), ExitCode.USAGE, "gone: not found")


def parameters(group: click.Group, name: str = "aprtui") -> Iterator[tuple[str, click.Parameter]]:
    for child in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), child)
        assert found is not None
        if isinstance(found, click.Group):
            yield from parameters(found, f"{name} {child}")
        yield from ((f"{name} {child} {parameter.name}", parameter) for parameter in found.params)


def test_whatever_is_called_model_takes_names() -> None:
    models = {name: found for name, found in parameters(cli) if found.name == "model" or found.metavar == "MODEL"}
    assert len(models) > 10
    assert [name for name, found in models.items() if not isinstance(found.type, ModelParameter)] == []


@pytest.mark.parametrize("command", [("info",), ("run", "-p", "x", "-n", 1), ("stats",)])
def test_a_name_is_a_model_to_every_command(aprtui: Run, home: Path, command: tuple[object, ...]) -> None:
    outcome = aprtui(*command, "tiny")
    assert outcome.code == ExitCode.PASS, outcome.err
    assert outcome.err.startswith(f"aprtui: tiny is {home / '.apr' / 'models' / 'tiny.gguf'}\n")


def test_names_are_models_to_diff_weights_and_replay(aprtui: Run, home: Path, tmp_path: Path) -> None:
    assert aprtui("diff", "--weights", "tiny", "split").code == ExitCode.PASS
    assert aprtui("trace", "tiny", "-p", "x", "--save-tensor-dir", tmp_path / "c").code == ExitCode.PASS
    assert aprtui("replay", tmp_path / "c", "--model", "tiny").code == ExitCode.PASS


def test_a_name_that_no_model_has_is_one_line(aprtui: Run, home: Path) -> None:
    assert_one_line(aprtui("run", "tinny", "-p", "x"), ExitCode.UNREADABLE, "tinny: no such file", "there is tiny")
    assert_one_line(aprtui("open", "tinny"), ExitCode.USAGE, "tinny: does not exist", "aprtui models")


def test_open_takes_a_name(home: Path) -> None:
    path = str(home / ".apr" / "models" / "tiny.gguf")
    assert [_with_path_of_model(text) for text in ("tiny", path, "nothing", "aprtui:live?model=a")] == [
        path, path, "nothing", "aprtui:live?model=a",
    ]  # fmt: skip


def test_the_default_is_used_where_no_model_is_named_and_said(aprtui: Run, home: Path) -> None:
    (home / "config.toml").write_text('[models]\ndefault = "tiny"\n')
    outcome = aprtui("info")
    assert "random-qwen2" in outcome.out
    assert "tiny.gguf, by the configuration" in outcome.err
