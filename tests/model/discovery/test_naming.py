from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.errors import UnreadableError, UsageError
from aprtui.model.discovery.naming import default_model, has_default, model_path
from aprtui.resources import embedded_model
from tests.model.discovery.conftest import Machine


def keep(machine: Machine, name: str, content: bytes = b"broken") -> Path:
    path = machine.home / ".apr" / "models" / f"{name}.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_path_that_exists_is_never_taken_for_a_name(machine: Machine) -> None:
    keep(machine, "coder")
    (machine.work / "coder").write_text("x")
    assert model_path("coder") == Path("coder")


def test_a_name_in_any_case_is_the_path_of_its_model(machine: Machine) -> None:
    path = keep(machine, "Coder-Q4")
    assert model_path("coder-q4") == path
    assert model_path("demo-qwen2-q4km") == embedded_model()


def test_the_very_name_goes_before_one_in_another_case(machine: Machine) -> None:
    small, capital = keep(machine, "coder"), keep(machine, "Coder")
    assert (model_path("coder"), model_path("Coder")) == (small, capital)
    with pytest.raises(UsageError, match="2 models have this name"):
        model_path("CODER")


def test_an_alias_stands_for_a_name_or_a_path(machine: Machine) -> None:
    path = keep(machine, "coder-q4")
    machine.configure(f'[aliases]\na = "coder-q4"\nb = "{path}"\nc = "~/.apr/models/coder-q4.gguf"\nd = "gone"\n')
    assert model_path("a") == model_path("b") == model_path("c") == path
    with pytest.raises(UsageError, match=r"d: alias of gone, which is neither.*config\.toml"):
        model_path("d")


def test_an_alias_goes_before_a_name(machine: Machine) -> None:
    keep(machine, "coder")
    other = keep(machine, "other")
    machine.configure('[aliases]\ncoder = "other"\n')
    assert model_path("coder") == other


def test_an_unknown_name_is_refused_with_those_that_come_near(machine: Machine) -> None:
    keep(machine, "qwen2.5-coder-q4")
    with pytest.raises(UnreadableError, match=r"^coder: no such file.*there is qwen2\.5-coder-q4"):
        model_path("coder")
    with pytest.raises(UnreadableError, match=r"there is qwen2\.5-coder-q4"):
        model_path("qwen25-coder-q4")


@pytest.mark.parametrize("text", ["gone.gguf", "gone.apr", "./gone", "no/where"])
def test_what_can_only_be_a_path_comes_back_as_it_is(machine: Machine, text: str) -> None:
    assert model_path(text) == Path(text)


def test_several_of_a_name_are_refused_with_their_paths(machine: Machine, tiny_bytes: bytes) -> None:
    first = keep(machine, "twin", tiny_bytes)
    second = machine.home / ".apr" / "models" / "more" / "twin.gguf"
    second.parent.mkdir()
    second.write_bytes(tiny_bytes)
    with pytest.raises(UsageError, match="2 models have this name") as refused:
        model_path("twin")
    assert str(first) in str(refused.value) and str(second) in str(refused.value)
    first.write_bytes(b"broken")
    assert model_path("twin") == second, "one that cannot be run is not picked"


def test_the_default_is_the_first_that_can_be_run(machine: Machine, tiny_bytes: bytes) -> None:
    assert default_model() == embedded_model() and not has_default()
    keep(machine, "broken")
    good = keep(machine, "good", tiny_bytes)
    machine.configure('[models]\ndefault = ["gone", "broken", "good", "demo-qwen2-q4km"]\n')
    assert default_model() == good and has_default()
    (machine.home / "near.gguf").write_bytes(tiny_bytes)
    machine.configure('[models]\ndefault = "near.gguf"\n')
    assert default_model() == machine.home / "near.gguf", "relative to the file"
    machine.configure('[models]\ndefault = "mine"\n[aliases]\nmine = "good"\n')
    assert default_model() == good


def test_a_default_of_which_none_can_be_run_is_refused_with_the_reasons(machine: Machine) -> None:
    path = keep(machine, "broken")
    machine.configure('[models]\ndefault = ["gone", "broken"]\n')
    with pytest.raises(UsageError, match=r"gone: not found; .*too short") as refused:
        default_model()
    assert str(path) in str(refused.value)
