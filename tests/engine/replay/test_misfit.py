"""What no engine can be blamed for: layers that are counted otherwise, and rows of which the ids are not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.verdict import Verdict
from aprtui.engine.floors.criteria import criteria_by_model
from aprtui.engine.judging import judged_by_floor
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.misfit import misfit, padding
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model
from aprtui.progress import no_progress
from aprtui.trace.aprt import HEADER_BYTES, write_aprt
from aprtui.trace.capture import PROVENANCE, Capture
from aprtui.trace.graph.stage import ENTRY, Node
from aprtui.trace.manifest import relative_path
from tests.engine.embedded_captures import edit, evaluators, exact, model

__all__ = ["evaluators", "exact", "model"]


def written(
    source: Path, folder: Path, first_layer: int = 0, runs: int = 1, kind: str = "f4", order: Literal["C", "F"] = "C"
) -> Capture:
    """What an engine of somebody's writes that counts its layers from `first_layer`, does not begin anew, or has other
    types and another order of values."""
    capture = Capture.open(source)
    for node in capture.files:
        layer = None if node.layer is None else node.layer + first_layer
        if not capture.graph[node.stage].is_attention_map:
            path = folder / relative_path(Node(layer, node.stage))
            values = np.concatenate([capture.values(node)] * runs)
            write_aprt(path, layer, values)
            path.write_bytes(path.read_bytes()[:HEADER_BYTES] + values.astype(kind).tobytes(order))
    (folder / PROVENANCE).write_text(f"tokens: {list(capture.tokens or ())}\n")
    return Capture.open(folder)


@pytest.mark.parametrize(
    ("numbering", "said"),
    [
        ({"first_layer": 1}, "the capture has layers 1 to 4, and MODEL's are 0 to 3: count layers from 0"),
        ({"runs": 2}, "its stages have 26 rows, 13 token ids are known"),
        ({"kind": "f8"}, "every file has as many bytes again: float64? Write float32"),
        ({"order": "F"}, "its embedding lies as [channels, tokens]"),
    ],
    ids=["layers from 1", "two runs", "float64", "channels first"],
)
def test_a_right_engine_that_writes_it_wrongly_is_told_so_and_never_blamed(
    numbering: dict[str, Any], said: str, exact: Path, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    capture = written(exact, tmp_path / "mine", **numbering)
    comparison = replay_capture(capture, model, ReplayOptions(), evaluators)
    assert comparison.verdict is Verdict.UNKNOWN and said in str(comparison.alignment.problem)
    criteria = criteria_by_model(Capture.open(exact), capture, model, capture.tokens or (), evaluators)
    assert criteria.unjudgeable and said in criteria.doubts[0]


def test_as_it_should_be_written_it_fits(exact: Path, model: Model, tmp_path: Path) -> None:
    capture = written(exact, tmp_path / "mine")
    assert ENTRY in {node.stage for node in capture.files} and misfit(capture, model, capture.tokens) is None


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_of_a_padded_batch_is_told_so_and_not_judged(
    side: str, exact: Path, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    """Whose ids are known from its embedding alone; stated, they are taken as they are."""
    pad, own = max(model.tokenizer.vocabulary.stop_ids), list(Capture.open(exact).tokens or ())
    rows = range(2) if side == "left" else range(len(own) - 2, len(own))
    folder = written(exact, tmp_path / "mine").path
    (folder / PROVENANCE).unlink()
    (table,) = model.params(Node(0, ENTRY))
    edit(folder, Node(0, ENTRY), lambda values: padded(values.reshape(len(own), -1), rows, table.dequantize([pad])))
    capture = Capture.open(folder)
    comparison = replay_capture(capture, model, ReplayOptions(), evaluators)
    said = f"rows {rows[0]}–{rows[-1]} are token {pad} again and again"
    assert comparison.verdict is Verdict.UNKNOWN and said in str(comparison.alignment.problem)
    criteria, _ = judged_by_floor(capture, capture, model, None, no_progress)
    assert criteria.unjudgeable and said in criteria.doubts[0]
    assert padding(model, [*own[:-1], pad]) is None
    ids = tuple(pad if row in rows else token for row, token in enumerate(own))
    assert replay_capture(capture, model, ReplayOptions(tokens=ids), evaluators).compared


def padded(values: NDArray[np.float32], rows: range, pad: NDArray[np.float32]) -> NDArray[np.float32]:
    values[list(rows)] = pad
    return values
