"""Finding out from a capture alone in which order its engine keeps channels, what it rounds, and where.

Of each kind of op some nodes are recomputed under every rounding in question; the right one is closer by orders of
magnitude (8-bit inputs: 1e-7 against 7e-3). Medians over several layers, so that one faulty stage decides nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import median
from types import MappingProxyType

import numpy as np

from aprtui.compare.align.layout import Layout, agreed, legal_layouts, solve_layout
from aprtui.compare.metrics.measure import compare_values
from aprtui.engine.protocol import Rounding
from aprtui.engine.replay.arithmetic import UNROUNDED, NodeEvaluators, Recomputation, rounding_text
from aprtui.engine.replay.bounds import replay_tolerance
from aprtui.engine.replay.recompute import CapturedStages, Misfit, Recomputer
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.trace.graph import Node, Op, Stage

_ROWS = 16
_CLEARLY = 0.5
"""A rounding is taken for another one only if it leaves less than this share of the error."""

_MATMUL_INPUTS = ("q8", "q8_0", "q8_1", "f16", "bf16")
_WIDEST_BLOCK = 32
_ATTENTION: tuple[Mapping[str, str], ...] = tuple(
    MappingProxyType({"kv_cache": cache, "softmax": softmax})
    for cache, softmax in (("f16", "f32"), ("f16", "f16"), ("bf16", "f32"), ("q8_0", "f32"), ("f32", "f16"))
)
_KEPT_BITS: Mapping[str, int] = MappingProxyType({"bf16": 0x0000FFFF, "f16": 0x00001FFF})
"""Mantissa bits that values of a 16-bit type leave zero in float32 (float16 denormals aside)."""


@dataclass(frozen=True, slots=True)
class FoundEngine:
    """What is known of the engine of a capture: its rounding, a statement of what that rests on, and whether most of
    the matrix products that were tried are the model's (`own_weights`, which is true where none could be tried)."""

    rounding: Rounding
    statement: str
    own_weights: bool


def identify(recomputer: Recomputer, stated: Mapping[str, str], evaluators: NodeEvaluators) -> FoundEngine:
    """The engine of a capture: as the user states it, else as its manifest does; the rest is found by trying."""
    manifest = recomputer.stages.capture.manifest
    names = {entry.name for entry in fields(Rounding)}
    recorded = {} if manifest is None else {k: v for k, v in manifest.engine.rounding.items() if k in names}
    source = " and ".join(name for name, given in (("the manifest", recorded), ("--rounding", stated)) if given)
    known = {**recorded, **stated}
    search = _Search(recomputer, evaluators, _sample(recomputer.stages))
    rounding = _found_by_trying(search, replace(UNROUNDED, **known), known)
    unstated = names - known.keys()
    how = f"as {source} states" if not unstated else "found by trying"
    how += f", beyond what {source} states" if unstated and source else ""
    return FoundEngine(rounding, f"rounding ({how}): {rounding_text(rounding)}", search.weights_agree(rounding))


def _found_by_trying(search: _Search, rounding: Rounding, stated: Collection[str]) -> Rounding:
    if "stage_output" not in stated:
        rounding = replace(rounding, stage_output=_output_type(search))
    if "matmul_input" not in stated:
        candidates = [{"matmul_input": name} for name in _MATMUL_INPUTS if _divides(name, search)]
        rounding = search.best(rounding, candidates, Op.MATMUL)
    if "rope_angles" not in stated:
        rounding = search.best(rounding, [{"rope_angles": str(RopeAngles.F32_RECURRENCE)}], Op.ROPE)
    if not {"kv_cache", "softmax"} & set(stated):
        rounding = search.best(rounding, _ATTENTION, Op.SCORES, Op.ATTEND)
    return rounding


def _sample(stages: CapturedStages) -> list[Node]:
    """The nodes that can be recomputed from captured inputs in the first, the middle and the last layer captured."""
    graph, total = stages.model.graph, len(stages.tokens)
    usable = [
        node
        for node in graph.nodes
        if stages.rows(node) and graph.inputs(node) and all(stages.rows(n) == total for n in graph.inputs(node))
    ]
    layers = sorted({node.layer for node in usable if node.layer is not None})
    chosen = {layers[index] for index in (0, len(layers) // 2, -1)} if layers else set()
    return [node for node in usable if node.layer is None or node.layer in chosen]


@dataclass(frozen=True, slots=True)
class _Search:
    recomputer: Recomputer
    evaluators: NodeEvaluators
    nodes: Sequence[Node]

    def best(self, base: Rounding, candidates: Sequence[Mapping[str, str]], *ops: Op) -> Rounding:
        """The candidate under which nodes of `ops` come out clearly closest; `base` where none does."""
        nodes = list(self.of(*ops))
        if not nodes:
            return base
        chosen, least = base, self._error(base, nodes) * _CLEARLY
        for changes in candidates:
            error = self._error(replace(base, **changes), nodes)
            if error < least:
                chosen, least = replace(base, **changes), error
        return chosen

    def weights_agree(self, rounding: Rounding) -> bool:
        """Whether the median matrix product is within its bound."""
        model, tokens = self.recomputer.model, len(self.recomputer.stages.tokens)
        ratios = [
            self._node_error(rounding, node) / replay_tolerance(model, node, (), rounding, tokens).bound
            for node in self.of(Op.MATMUL)
        ]
        return not ratios or median(ratios) <= 1

    def of(self, *ops: Op) -> Iterator[Node]:
        graph = self.recomputer.model.graph
        return (node for node in self.nodes if graph[node.stage].op in ops)

    def _error(self, rounding: Rounding, nodes: Sequence[Node]) -> float:
        return median(self._node_error(rounding, node) for node in nodes)

    def _node_error(self, rounding: Rounding, node: Node) -> float:
        rows = min(_ROWS, self.recomputer.stages.rows(node))
        recomputation = Recomputation(self.recomputer.model, rounding, self.evaluators)
        expected = self.recomputer.recompute(node, recomputation, rows).values
        found = self.recomputer.stages.values(node)
        error = compare_values(expected, np.ascontiguousarray(found[..., -rows:, :])).rel_l2
        return np.inf if error is None else error


def _divides(name: str, search: _Search) -> bool:
    """Whether every matmul input of the sample can be cut into the blocks of a rounding."""
    model = search.recomputer.model
    columns = [weight.columns for node in search.of(Op.MATMUL) for weight in model.params(node)]
    return not name.startswith("q8_") or all(count % _WIDEST_BLOCK == 0 for count in columns)


def _output_type(search: _Search) -> str:
    """The 16-bit type that all sampled matrix products are kept in, if they are."""
    tensors = [search.recomputer.stages.raw(node) for node in search.of(Op.MATMUL)]
    bits = [np.ascontiguousarray(raw).view(np.uint32) for raw in tensors if not isinstance(raw, Misfit)]
    for name, unused in _KEPT_BITS.items():
        if bits and all(np.any(values) and not np.any(values & np.uint32(unused)) for values in bits):
            return name
    return "f32"


def find_layouts(recomputer: Recomputer, recomputation: Recomputation) -> Iterator[str]:
    """Set the layouts of a capture without a manifest, stage by stage in the graph's order; say each in words.

    What a stage is computed from has its layout by then.
    """
    stages, model = recomputer.stages, recomputer.model
    config = model.graph.config
    if stages.capture.manifest is not None or config is None:
        return
    for stage in model.graph.stages:
        candidates = legal_layouts(stage, model.graph.rope_parts, config)
        sampled = _sampled(stage, model, stages)
        layout = agreed([_layout_of(node, recomputer, recomputation, candidates) for node in sampled])
        if layout is not None:
            stages.layouts.update({node: layout for node in model.graph.nodes if node.stage == stage.name})
            yield f"{stage.name} is in another order than the model's, and is put in it: {layout.text}"


def _sampled(stage: Stage, model: Model, stages: CapturedStages) -> list[Node]:
    """Up to three layers of a stage that holds all tokens, with all that it is computed from."""
    total = len(stages.tokens)
    held = [
        node
        for node in model.graph.nodes
        if node.stage == stage.name and all(stages.rows(n) == total for n in (node, *model.graph.inputs(node)))
    ]
    return [held[index] for index in sorted({0, len(held) // 2, len(held) - 1})] if held else []


def _layout_of(
    node: Node, recomputer: Recomputer, recomputation: Recomputation, candidates: tuple[Layout, ...]
) -> Layout | None:
    raw = recomputer.stages.raw(node)
    assert not isinstance(raw, Misfit)
    expected = recomputer.recompute(node, recomputation, len(recomputer.stages.tokens)).values
    return solve_layout(expected, raw, candidates)
