"""Small captures to judge contracts on: with a NaN that went in, of some layers, of another engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from aprtui.contracts.checks.arguments import CheckSubject
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.documents.document import CheckCall
from aprtui.contracts.evaluation import evaluate
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import ENGINE, Edit, Values, write_capture
from tests.contracts.samples import document

NAN_AT = Node(1, "ffn_gate")
ELEMENT = (0, 2)
WITH_NAN_FAULT = replace(ENGINE, faults=("layer=1,stage=ffn_gate,kind=nan,channel=2",))


def nan_at(index: tuple[int, ...]) -> Edit:
    """An edit that puts a NaN at `index`."""

    def edit(values: Values) -> Values:
        values = values.copy()
        values[index] = np.nan
        return values

    return edit


def nan_capture(path: Path, nodes: tuple[Node, ...], **options: object) -> Capture:
    """A capture that records a NaN injected at `NAN_AT`, and holds one at `ELEMENT` of each of `nodes`."""
    edits = {node: nan_at(ELEMENT) for node in nodes}
    return Capture.open(write_capture(path, edits=edits, engine=WITH_NAN_FAULT, **options))  # type: ignore[arg-type]


def of_layers(path: Path, layers: tuple[int, ...]) -> Path:
    """The capture in `path` as if only the stages of `layers` had been requested."""
    manifest = path / "manifest.json"
    written = json.loads(manifest.read_text())
    dropped = [name for name, info in written["files"].items() if info["layer"] not in layers]
    for name in dropped:
        (path / name).unlink()
        del written["files"][name]
    manifest.write_text(json.dumps(written))
    return path


def judged(
    check: str, capture: Capture | None = None, reference: Capture | None = None, model: Model | None = None, /,
    **parameters: object,
) -> Judgement:  # fmt: skip
    """What a check says of captures, or of a model."""
    contract = document("falsification_tests: [{id: X}]\n")
    return evaluate(contract, CheckCall(check, parameters), CheckSubject(capture, reference, model))
