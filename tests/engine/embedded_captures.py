"""Captures of the embedded model, written once, and copies of them with something wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.comparison import Comparison
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model, load_model
from aprtui.resources import embedded_model
from aprtui.trace.aprt import read_aprt, write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import relative_path

TOKENS = (2045, 312, 282, 1355, 932, 297, 198, 258, 326, 319, 69, 325, 266)

Values = NDArray[np.float32]


@pytest.fixture(scope="session")
def model() -> Model:
    return load_model(embedded_model())


@pytest.fixture(scope="session")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as opened:
        yield opened


def captured(
    model: Model, directory: Path, mode: Mode = Mode.EXACT, kv: KvType = KvType.F32, **request: object
) -> Path:
    """A capture of every stage of the embedded model on `TOKENS`."""
    engine = open_engine(model, mode=mode, kv=kv, context=64)
    fields = {"tokens": TOKENS, "text": None, "nodes": frozenset(model.graph.nodes), "logits": Logits.LAST, **request}
    try:
        write_capture(engine, model, CaptureRequest(**fields), directory)  # type: ignore[arg-type]
    finally:
        engine.close()
    return directory


@pytest.fixture(scope="session")
def exact(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured(model, tmp_path_factory.mktemp("replay") / "exact")


@pytest.fixture(scope="session")
def q8(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured(model, tmp_path_factory.mktemp("replay") / "q8", Mode.Q8)


@pytest.fixture
def without_manifest(exact: Path, tmp_path: Path) -> Path:
    """The exact capture as a foreign engine would leave it: stage files and nothing else."""
    copy = tmp_path / "foreign"
    shutil.copytree(exact, copy)
    (copy / "manifest.json").unlink()
    return copy


def edit(directory: Path, node: Node, change: Callable[[Values], Values | None]) -> None:
    """Change the values of one stage file in place."""
    path = directory / relative_path(node)
    file = read_aprt(path)
    values = np.array(file.values)
    changed = change(values)
    write_aprt(path, file.layer, values if changed is None else changed)


@pytest.fixture
def replay(model: Model, evaluators: Evaluators) -> Callable[..., Comparison]:
    def run(directory: Path, **options: object) -> Comparison:
        return replay_capture(Capture.open(directory), model, ReplayOptions(**options), evaluators)  # type: ignore[arg-type]

    return run
