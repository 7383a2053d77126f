"""A backend is one file and one line of the registry: the rest of the program finds it there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aprtui
from aprtui.engine.backends.registry import (
    AUTO,
    BACKENDS,
    backend_choices,
    backend_names,
    device_backends,
    evaluating_backends,
    fast_backends,
    host_backends,
    is_host,
)
from aprtui.engine.opening import open_engine
from aprtui.errors import UsageError
from aprtui.model.model import Model

COMMAND = """
import sys
from tests.engine.toy_backend import register
register()
from aprtui.cli.main import main
main(sys.argv[1:])
"""


def aprtui_with_toy(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [str(argument) for argument in arguments]
    return subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, check=False)


def test_a_registered_backend_runs(tmp_path: Path) -> None:
    words = ("-p", "def f(n):", "-n", 3, "--json")
    done = aprtui_with_toy("run", *words, "--backend", "toy")
    assert done.returncode == 0, done.stderr
    *tokens, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert last["backend"] == "toy"
    reference = aprtui_with_toy("run", *words, "--backend", "numpy")
    assert tokens == [json.loads(line) for line in reference.stdout.splitlines()[:-1]]


@pytest.mark.gate
def test_a_registered_backend_captures_and_its_capture_is_replayed(tmp_path: Path) -> None:
    capture = tmp_path / "capture"
    traced = aprtui_with_toy("trace", "--tokens", "1,2,3", "--backend", "toy", "--save-tensor-dir", capture)
    assert traced.returncode == 0, traced.stderr
    assert json.loads((capture / "manifest.json").read_text())["engine"]["backend"] == "toy"
    replayed = aprtui_with_toy("replay", capture)
    assert replayed.returncode == 0, replayed.stderr


def test_a_registered_backend_is_offered_described_and_injected_into() -> None:
    assert "[auto|cpu|cuda|numpy|toy]" in re.sub(r"\s+", "", aprtui_with_toy("run", "--help").stdout)
    assert "toy: an example" in " ".join(aprtui_with_toy("trace", "--help").stdout.split())
    assert re.search(r"^ok +Toy engine +wood$", aprtui_with_toy("doctor").stdout, re.MULTILINE)
    fault = "layer=0,stage=ffn_up,kind=scale,magnitude=0.5"
    faulty = aprtui_with_toy("run", "--tokens", "1,2", "-n", 1, "--backend", "toy", "--inject", fault)
    assert faulty.returncode == 0, faulty.stderr


def test_capabilities_sort_the_backends() -> None:
    assert backend_choices() == (AUTO, *backend_names())
    assert {*host_backends(), *device_backends()} == set(BACKENDS)
    assert [backend.name for backend in device_backends()] == ["cuda"]
    assert backend_names(evaluating_backends()) == ("cpu", "numpy")
    assert backend_names(fast_backends()) == ("cpu", "cuda")
    assert is_host("cpu") and not is_host("cuda") and not is_host("transformers") and not is_host(None)


def test_an_unknown_backend_is_refused_by_name(model: Model) -> None:
    with pytest.raises(UsageError, match=r"backend vulkan: there is none .* use one of auto, cpu, cuda, numpy"):
        open_engine(model, backend="vulkan")


def test_nothing_but_the_backends_themselves_spells_a_name_of_one() -> None:
    package = Path(aprtui.__file__).parent
    spelled = re.compile(rf"""backend\w* *(==|!=|=|in) *\(?["']({"|".join(backend_names())})["']""")
    found = [
        f"{path.relative_to(package)}: {match[0]}"
        for path in package.rglob("*.py")
        for match in spelled.finditer(path.read_text())
        if not path.is_relative_to(package / "engine" / "backends")
    ]
    owners = ("engine/cpu/", "engine/cuda/", "engine/reference/")  # an engine states its own name
    assert [line for line in found if not line.startswith(owners)] == []
