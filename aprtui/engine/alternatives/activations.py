"""Alternatives of activations: which function, and of which operand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.alternatives import rows
from aprtui.engine.alternatives.alternative import Alternative, Attempt, least, nicest, plain, reading
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.gelu import gelu_tanh
from aprtui.engine.reference import ops
from aprtui.engine.rounding import ROUND
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Wide = NDArray[np.float64]


def _sigmoid(x: Wide) -> Wide:
    return np.asarray(1 / (1 + np.exp(-x)))


def _erf(x: Wide) -> Wide:
    """The error function, to float64 (its series where that converges fast, else its continued fraction)."""
    from math import erf

    return np.asarray(np.vectorize(erf, otypes=[np.float64])(x))


ACTIVATIONS: Mapping[str, Callable[[Wide], Wide]] = MappingProxyType(
    {
        "SiLU": lambda x: x * _sigmoid(x),
        "GELU by tanh": gelu_tanh,
        "GELU by erf": lambda x: x * 0.5 * (1 + _erf(x / np.sqrt(2))),
        "GELU by sigmoid(1.702 x)": lambda x: x * _sigmoid(1.702 * x),
        "ReLU": lambda x: np.maximum(x, 0),
        "ReLU²": lambda x: np.maximum(x, 0) ** 2,
        "a sigmoid": _sigmoid,
        "tanh": np.tanh,
        "hard SiLU": lambda x: x * np.clip(x + 3, 0, 6) / 6,
        "left out": lambda x: x,
        "softplus": lambda x: np.logaddexp(0, x),
        "Mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    }
)
"""By what they are called."""


def _activations(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    own = "SiLU" if call.op is Op.SILU else "GELU by tanh"
    for name, function in ACTIVATIONS.items():
        if name != own:
            yield Attempt(
                f"the activation is {name}, the model says {own}",
                lambda c, function=function: function(c.x.astype(np.float64)).astype(np.float32),  # type: ignore[misc]
            )


def _leaks(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A slope below zero, of a rectifier that leaks."""
    if found is None:
        return
    below = (call.x < 0) & np.isfinite(found)
    x, values = call.x[below].astype(np.float64), found[below].astype(np.float64)
    square = float((x * x).sum())
    if square:
        slope = nicest(float((x * values).sum()) / square, lambda s: float(((values - s * x) ** 2).sum()) / square)
        if slope > 0:
            yield Attempt(
                f"the activation is a leaky ReLU, with {slope:.6g} below zero",
                lambda c: np.where(c.x < 0, np.float32(slope) * c.x, c.x), 1,
            )  # fmt: skip


_WIDTHS = (("f16", "float16"), ("bf16", "bfloat16"))


def _tables(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A table of all numbers of 16 bits: arguments and results are some of these."""
    for kind, name in _WIDTHS:
        yield Attempt(
            f"the activation is a table of {name} numbers",
            lambda c, kind=kind: ROUND[kind](c.honest(ROUND[kind](c.x))),  # type: ignore[misc]
        )


def _betas(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """x · sigmoid(β x) with another factor than 1."""
    if found is None:
        return
    x = call.x.astype(np.float64)

    def cost(logarithm: float) -> float:
        return _missed(x * _sigmoid(np.exp(logarithm) * x), found)

    beta = nicest(float(np.exp(least(cost, np.log(0.05), np.log(20)))), lambda value: cost(np.log(value)))
    if abs(beta - 1) > 1e-6:
        yield with_beta(call, beta)


def with_beta(call: StageCall, beta: float) -> Attempt:
    """x · sigmoid(β x)."""
    return Attempt(
        f"the activation is x · sigmoid({beta:.6g} x)",
        lambda c: (c.x * _sigmoid(beta * c.x.astype(np.float64))).astype(np.float32), 1,
    )  # fmt: skip


def _input_limits(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """What goes in is clamped: where results no longer change shows the limit."""
    if found is None or not np.isfinite(found).all():
        return
    off = np.abs(found.astype(np.float64) - call.honest()) > 1e-4 * np.abs(found).max(initial=0)
    if not off.any():
        return
    low, high = 0.5 * float(np.abs(call.x[off]).min()), float(np.abs(call.x[off]).max())

    def cost(logarithm: float) -> float:
        limit = np.float32(np.exp(logarithm))
        return _missed(call.honest(np.clip(call.x, -limit, limit), *call.inputs[1:]).astype(np.float64), found)

    limit = nicest(float(np.exp(least(cost, np.log(low), np.log(high)))), lambda value: cost(np.log(value)))
    clamped = np.clip(call.x, -np.float32(limit), np.float32(limit))
    yield reading(f"its input is clamped at {limit:.6g}", {0: clamped}, 1)
    yield reading(f"its input is clamped at {limit:.6g} from above", {0: np.minimum(call.x, np.float32(limit))}, 1)


def _missed(values: Wide, found: Array) -> float:
    return float(((values - found) ** 2).sum() / ((values**2).sum() or 1))


_SCHRAUDOLPH = (0, 298765, 366393, 486411)
"""What is taken off the bits of 1.0: for the least largest error, the least mean square and others in use."""
_POWERS = (256, 1024, 4096)


def fast_exponential(x: Wide, offset: int) -> Wide:
    """e^x by writing x / ln 2 into the exponent of a float32 (Schraudolph 1999, Neural Computation 11)."""
    bits = np.clip(x * (2**23 / np.log(2)) + (127 * 2**23 - offset), 0, 0x7F7FFFFF)
    return np.asarray(bits.astype(np.int32).view(np.float32), np.float64)


def with_fast_exponential(call: StageCall, offset: int) -> Array:
    """SiLU by that."""
    return np.asarray(call.x / (1 + fast_exponential(-call.x.astype(np.float64), offset)), np.float32)


def _fast_exponentials(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    for offset in _SCHRAUDOLPH:
        yield Attempt(
            f"the exponential is Schraudolph's fast one ({offset} off the bits)",
            partial(with_fast_exponential, offset=offset),
        )
    for power in _POWERS:
        yield Attempt(
            f"the exponential is (1 + x / {power}) to the power of {power}",
            lambda c, power=power: (  # type: ignore[misc]
                c.x / (1 + np.maximum(1 - c.x.astype(np.float64) / power, 0) ** power)
            ).astype(np.float32),
        )


def of_the_product(call: StageCall) -> Array:
    """The activation of gate · up, in place of the activation of the gate times up."""
    source = call.model.graph.inputs(call.node)[0]
    (gate,) = call.model.graph.inputs(source)
    return call.honest(call.seen[gate][-len(call.x) :] * call.inputs[1], node=source)


def gate_and_up_exchanged(call: StageCall) -> Array:
    """The activation of up times the gate."""
    source = call.model.graph.inputs(call.node)[0]
    (gate,) = call.model.graph.inputs(source)
    return np.asarray(call.honest(call.inputs[1], node=source) * call.seen[gate][-len(call.x) :], np.float32)


def _of_both(call: StageCall) -> Array:
    """The same where the activation stands before the product: it is given gate · up already."""
    return call.honest(np.asarray(call.x * call.before("ffn_up")[-len(call.x) :], np.float32))


def _has_up(model: Model, node: Node) -> bool:
    return Node(node.layer, "ffn_up") in model.graph.order and node.stage in ("ffn_silu", "ffn_gelu")


def _follows_activation(model: Model, node: Node) -> bool:
    return model.graph[model.graph.inputs(node)[0].stage].op in (Op.SILU, Op.GELU)


def _limits(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """SwiGLU of gpt-oss with another limit."""
    if found is None:
        return

    def cost(logarithm: float) -> float:
        values = ops.swiglu_oai(*call.inputs, limit=float(np.exp(logarithm))).astype(np.float64)
        return float(((values - found) ** 2).sum() / ((values**2).sum() or 1))

    limit = nicest(float(np.exp(least(cost, np.log(0.1), np.log(100)))), lambda value: cost(np.log(value)))
    yield Attempt(
        f"gate and up are clamped at {limit:.6g}, the model says {ops.SWIGLU_LIMIT:.6g}",
        lambda c: ops.swiglu_oai(*c.inputs, limit=limit), 1,
    )  # fmt: skip


_OAI = (Op.SWIGLU_OAI,)

ACTIVATION_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative(
        "activation", frozenset({Op.SILU, Op.GELU}), _activations, "use the activation that the architecture has"
    ),
    Alternative(
        "leaky ReLU", frozenset({Op.SILU, Op.GELU}), _leaks, "use the activation that the architecture has"
    ),
    Alternative(
        "activation by a table", frozenset({Op.SILU, Op.GELU}), _tables, "state it: --rounding activation=f16",
        may_be_meant=True,
    ),
    plain(
        "gate and up exchanged", _OAI, lambda call: call.honest(call.inputs[1], call.inputs[0]),
        "gate and up are exchanged", "the activation is of the gate",
    ),
    plain(
        "SwiGLU not clamped", _OAI, rows.swiglu_not_clamped, "gate and up are not clamped", "clamp gate and up at 7"
    ),
    plain("SwiGLU without 1", _OAI, rows.swiglu_without_one, "1 is not added to up", "multiply by up + 1"),
    plain(
        "SwiGLU without factor", _OAI, rows.swiglu_without_factor, "the sigmoid of the gate lacks its factor 1.702",
        "sigmoid(1.702 · gate)",
    ),
    Alternative("SwiGLU limit", frozenset(_OAI), _limits, "clamp gate and up at 7"),
    Alternative(
        "activation factor", frozenset({Op.SILU}), _betas, "use the activation that the architecture has"
    ),
    Alternative(
        "activation clamped", frozenset({Op.SILU, Op.GELU, Op.MULTIPLY}), _input_limits,
        "clamp nothing that the architecture does not",
    ),
    Alternative(
        "fast exponential", frozenset({Op.SILU}), _fast_exponentials,
        "use an exponential that is right to float32, or state that this one is meant", may_be_meant=True,
    ),
    plain(
        "activation of gate and up", (Op.SILU, Op.GELU), _of_both,
        "the activation is of gate · up, in place of the gate alone", "activation(gate) · up", _has_up,
    ),
    plain(
        "activation of the product", (Op.MULTIPLY,), of_the_product,
        "the activation is of gate · up, in place of the gate alone", "activation(gate) · up", _follows_activation,
    ),
    plain(
        "gate and up exchanged", (Op.MULTIPLY,), gate_and_up_exchanged, "gate and up are exchanged",
        "the activation is of the gate", _follows_activation,
    ),
    plain(
        "up ignored", (Op.MULTIPLY,), lambda call: call.x, "the gate is not multiplied by up",
        "multiply the activation by up",
    ),
)  # fmt: skip
