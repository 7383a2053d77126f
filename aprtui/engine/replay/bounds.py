"""How much error an honest engine injects at a stage, and the bound that follows.

With its rounding modelled, an honest engine recomputes to the last bits of float32: measured on llama.cpp and
transformers, every stage of models of 4 to 24 layers, at most 3e-7 a tensor. What cannot be modelled adds to that:
stages kept in 16 bits (whose engine rounds in the middle of an op as well), RoPE angles (float32 angles are off by the
position times 2⁻²⁴), and what was evaluated through: a difference of 1e-7 there flips an 8-bit rounding now and then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Tolerance
from aprtui.engine.protocol import Rounding
from aprtui.engine.replay.arithmetic import ATTENTION_OPS, KnownArithmetic, cached_type, factor_type, matmul_rounding
from aprtui.model.model import Model
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op
from aprtui.trace.graph.stage import Node

FLOAT32 = 3e-7
LEAST_BOUND = 2e-6
MARGIN = 3.0
"""The bound over the floor."""

OUTPUT_STEP: Mapping[str, float] = MappingProxyType({"f32": 0.0, "f16": 5e-4, "bf16": 4e-3})
_FLIPS: Mapping[str, float] = MappingProxyType({"none": 0.0, "f32": 0.0, "f16": 3e-5, "tf32": 3e-5, "bf16": 3e-4})
_INT8_FLIPS = 3e-3
"""One flipped level of a token's 256 costs up to 1/127 of its largest value: 1e-3 … 3e-3 of the product's norm."""
ANGLE_ERROR = 2.0**-26
"""Of the position: half a unit in the last place of float32 in the fastest pair, over all pairs a quarter of it."""


def replay_tolerance(
    model: Model, node: Node, segment: Sequence[Node], known: KnownArithmetic, tokens: int
) -> Tolerance:
    """The bound of the error that `node` injects when recomputed through `segment`, for the worst token."""
    evaluated = (*segment, node)
    floor = FLOAT32 * math.sqrt(len(evaluated))
    floor += math.hypot(*(OUTPUT_STEP[known.output_type(n)] for n in evaluated))
    if any(model.graph[n.stage].op is Op.ROPE for n in evaluated):
        floor += ANGLE_ERROR * tokens
    floor += math.hypot(*(flip_error(model, n, known.rounding) for n in fed_nodes(model, node, segment)))
    return bound_of(floor, "what honest engines of this rounding inject")


def bound_of(floor: float, what: str) -> Tolerance:
    """The bound that follows from a floor of `token_rel_l2`; `what` says what the floor is."""
    return Tolerance(Metric.TOKEN_REL_L2, max(LEAST_BOUND, MARGIN * floor), floor, f"{MARGIN:g} × {what}")


def fed_nodes(model: Model, node: Node, segment: Sequence[Node]) -> list[Node]:
    """Those of `segment` and `node` whose own inputs were evaluated through: only there a rounding may flip."""
    return [n for n in (*segment, node) if set(segment).intersection(model.graph.inputs(n))]


def flip_error(model: Model, node: Node, rounding: Rounding) -> float:
    """The error of one flipped rounding of an input at `node`, relative L2 of a token; 0 where no input is rounded."""
    op = model.graph[node.stage].op
    if op in ATTENTION_OPS:
        kinds = {cached_type(op, rounding), factor_type(op, rounding)}
    elif op in MATRIX_PRODUCTS:
        kinds = {matmul_rounding(rounding.matmul_input, weight) for weight in model.params(node)}
    elif op is Op.GELU:
        kinds = {rounding.activation}
    else:
        return 0.0
    return max(_FLIPS.get(kind, _INT8_FLIPS) for kind in kinds)
