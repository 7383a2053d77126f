"""`aprtui check`: what is printed, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from aprtui.model.model import load_model
from aprtui.resources import embedded_model
from tests.cli.conftest import Outcome
from tests.conversion.folders import folder_of


def test_the_command_says_what_and_how_it_shows(tmp_path: Path, aprtui: Callable[..., Outcome]) -> None:
    model = load_model(embedded_model())
    folder = folder_of(model)
    folder.config["rms_norm_eps"] = 1e-3
    path = folder.write(tmp_path / "hf")
    done = aprtui("check", embedded_model(), "--against", path)
    assert done.code == 1 and "rms_norm_eps" in done.out and "breaks  attn_norm" in done.out
    records = [json.loads(line) for line in aprtui("check", "--against", path, "--json").out.splitlines()]
    assert records[0]["subject"] == "rms_norm_eps" and records[-1]["verdict"] == "FAIL"
    assert aprtui("check", "--against", tmp_path / "none").code == 3
