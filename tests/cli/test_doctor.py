"""`doctor` says what is here, and of a GPU that cannot be used why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.engine.cuda import detect
from tests.cli.conftest import Outcome


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a driver and no device."""
    found = detect.Detection(
        obstacle=detect.Obstacle.NO_DEVICE, problem="the NVIDIA driver sees no device", advice="see what it lists"
    )
    monkeypatch.setattr(detect, "detect", lambda: found)


def test_doctor_finds_all_that_the_core_needs(aprtui: Callable[..., Outcome]) -> None:
    outcome = aprtui("doctor")
    assert outcome.code == 0
    assert "missing" not in outcome.out
    assert "dequantised row by row, slower: IQ2_XXS" in outcome.out


@pytest.mark.usefixtures("no_device")
def test_doctor_says_why_the_gpu_is_not_used_and_what_to_do(aprtui: Callable[..., Outcome]) -> None:
    records = [json.loads(line) for line in aprtui("doctor", "--json").out.splitlines()]
    (cuda,) = [record for record in records if record["what"] == "CUDA"]
    assert cuda["state"] == "optional"
    assert (cuda["found"], cuda["advice"]) == ("the NVIDIA driver sees no device", "see what it lists")


@pytest.mark.usefixtures("no_device")
@pytest.mark.parametrize("command", [("run", "-n", "1"), ("trace", "--save-tensor", "embedding")])
def test_a_forced_gpu_that_cannot_be_used_is_never_replaced(
    aprtui: Callable[..., Outcome], tiny_model: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    name, *options = command
    target = ["--save-tensor-dir", tmp_path / "capture"] if name == "trace" else []
    outcome = aprtui(name, tiny_model, "--tokens", "1,2", "--backend", "cuda", *options, *target)
    assert outcome.code == 4
    assert outcome.out == ""
    assert outcome.err == (
        "aprtui: backend cuda: the NVIDIA driver sees no device: see what it lists, or use --backend cpu\n"
    )
    assert not (tmp_path / "capture").exists()
