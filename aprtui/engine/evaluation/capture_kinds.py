"""The kinds of captures that people bring, each a row: which stages, which tokens, and what the values are stored in.

Every kind is derived from one complete capture, so that what a verdict loses is lost by the kind alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.rounding import ROUND
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import PROVENANCE, Capture
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, RESIDUALS, Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.manifest import relative_path

Tensors = Mapping[Node, NDArray[np.float32]]
Case = TypeVar("Case")


@dataclass(frozen=True, slots=True)
class CaptureKind:
    """What a capture of this kind holds: the nodes that `keeps` accepts, of the last token only where `last_only`, in
    values of the type `stored`."""

    keeps: Callable[[Node, StageGraph], bool]
    last_only: bool = False
    stored: str = "none"


def _all(node: Node, graph: StageGraph) -> bool:
    return True


def _no_maps(node: Node, graph: StageGraph) -> bool:
    return not graph[node.stage].is_attention_map


def _layer_outputs(node: Node, graph: StageGraph) -> bool:
    return node.stage in (ENTRY, LAYER_OUTPUT, "lm_head")


def _every_fourth(node: Node, graph: StageGraph) -> bool:
    return _layer_outputs(node, graph) and (node.layer is None or node.stage == ENTRY or node.layer % 4 == 3)


def block_outputs(graph: StageGraph) -> tuple[str, ...]:
    """What attention (or a recurrence) and feed-forward block give, before any norm: as `attn_out` and `ffn_out`."""
    added = [graph[entry.stage] for name in RESIDUALS for entry in graph[name].inputs[1:]]
    return tuple(stage.inputs[0].stage if stage.op is Op.RMS_NORM else stage.name for stage in added)


def _two_a_layer(node: Node, graph: StageGraph) -> bool:
    return node.stage in (ENTRY, *block_outputs(graph), "lm_head")


def _norms(node: Node, graph: StageGraph) -> bool:
    return node.stage in (ENTRY, "lm_head") or graph[node.stage].op is Op.RMS_NORM


def _products(node: Node, graph: StageGraph) -> bool:
    return node.stage == ENTRY or graph[node.stage].op is Op.MATMUL


def _some_layers(node: Node, graph: StageGraph) -> bool:
    return node.stage == ENTRY or node.layer in (graph.layers // 2, graph.layers // 2 + 1)


def _logits(node: Node, graph: StageGraph) -> bool:
    return graph[node.stage].holds_logits


CAPTURE_KINDS: Mapping[str, CaptureKind] = MappingProxyType(
    {
        "complete": CaptureKind(_all),
        "no attention maps": CaptureKind(_no_maps),
        "layer outputs": CaptureKind(_layer_outputs),
        "every fourth layer": CaptureKind(_every_fourth),
        "two stages a layer": CaptureKind(_two_a_layer),
        "norms": CaptureKind(_norms),
        "matrix products": CaptureKind(_products),
        "two layers": CaptureKind(_some_layers),
        "last token": CaptureKind(_no_maps, last_only=True),
        "logits": CaptureKind(_logits),
        "stored in f16": CaptureKind(_all, stored="f16"),
        "stored in bf16": CaptureKind(_all, stored="bf16"),
        "layer outputs in bf16": CaptureKind(_layer_outputs, stored="bf16"),
    }
)
"""By name, as the tables of `aprtui bench verdicts --part kinds` show them."""


def one_in(every: int, cases: Sequence[Case]) -> list[Case]:
    """One in `every` of `cases`, in their order: chosen at random, so that no kind is left out whose number divides
    `every`, and the same at every call."""
    taken = np.random.default_rng(0).permutation(len(cases))[::every]
    return [cases[index] for index in sorted(taken.tolist())]


def write_kind(kind: CaptureKind, tensors: Tensors, graph: StageGraph, tokens: Sequence[int], folder: Path) -> Capture:
    """A capture of `kind` in `folder`, from the `tensors` of a complete one: stage files and the token ids, no more, as
    a script of a user leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROVENANCE).write_text(f"tokens: {list(tokens)}\n")
    for node, values in tensors.items():
        if kind.keeps(node, graph):
            kept = values[-1:] if kind.last_only else values
            write_aprt(folder / relative_path(node), node.layer, ROUND[kind.stored](kept))
    return Capture.open(folder)
