"""Models, and a folder with something for every command to work on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import aprtui as aprtui
from tests.cli.conftest import tiny_model as tiny_model
from tests.cli.test_bisect import git
from tests.compare.recorded import two_captures
from tests.contracts.samples import SOUND
from tests.engine.sessions.recorded_session import write_session
from tests.fuzz.dumps import WRITERS
from tests.model.gguf_files import write_model
from tests.sweep.plans import copying_plan


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, captures, a session, a contract, ranks, dumps, a plan and a history; tests add files and change none."""
    folder = tmp_path_factory.mktemp("house")
    write_model(folder / "m.gguf")
    two_captures(folder)
    write_session(folder / "s.jsonl", pieces=("a", "b"))
    (folder / "c.yaml").write_text(SOUND)
    for rank in ("rank-0", "rank-1"):
        shutil.copytree(folder / "good", folder / "ranks" / rank)
    (folder / "dump").mkdir()
    WRITERS["sglang-passes"](folder / "dump")
    states: dict[str, Any] = {"model.layers.0.mlp.down_proj": np.ones((3, 256), np.float32)}
    np.savez(folder / "states.npz", **states)
    copying_plan(folder, prompts=1)
    git(folder, "init", "-q", "-b", "main", "history")
    for number, capture in enumerate(("good", "good", "bad")):
        (folder / "history" / "which").write_text(f"{capture}\n{number}\n")
        git(folder / "history", "add", "-A")
        git(folder / "history", "commit", "-q", "-m", capture)
    return folder
