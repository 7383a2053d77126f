"""Ops that compute each value from values at its place, and sums over some."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from aprtui.engine.gelu import gelu_f16, gelu_tanh
from aprtui.recordings.ops.operands import Array, Operands, OpWay, OpWays

_erf = np.vectorize(math.erf, otypes=[np.float64])


def repeated(values: Array, shape: tuple[int, ...]) -> Array:
    """`values` side by side as often as `shape` has room for, which is a multiple in each dimension."""
    if values.shape == tuple(shape):
        return values
    if any(n == 0 or big % n for n, big in zip(values.shape, shape, strict=True)):
        raise ValueError(f"shape {list(values.shape)} does not repeat to {list(shape)}")
    return np.tile(values, [big // n for n, big in zip(values.shape, shape, strict=True)])


def with_second(combine: Callable[[Array, Array], Array]) -> Callable[[Operands], Array]:
    """An op of two sources, of which the second is repeated to the shape of the first."""

    def compute(op: Operands) -> Array:
        first = op.values(0)
        return combine(first, repeated(op.values(1), first.shape))

    return compute


def of_one(function: Callable[[Array], Array]) -> Callable[[Operands], Array]:
    """An op of one source, value by value."""
    return lambda op: function(op.values(0))


def add_id(op: Operands) -> Array:
    """A row of the second source for each row of the first, as the third names them."""
    first, rows, ids = op.values(0), op.values(1), op.values(2)
    return np.asarray(first + rows[0, 0][ids[0, 0]][None])


def scale(op: Operands) -> Array:
    return op.values(0) * op.number("scale") + op.number("bias")


def clamp(op: Operands) -> Array:
    return np.clip(op.values(0), op.number("min"), op.number("max"))


def leaky_relu(op: Operands) -> Array:
    values = op.values(0)
    return np.where(values > 0, values, values * op.number("slope"))


def sum_all(op: Operands) -> Array:
    return np.asarray(np.sum(op.values(0)).reshape(1, 1, 1, 1))


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def softplus(x: Array) -> Array:
    """log(1 + exp(x)); beyond 20 ggml gives x itself."""
    return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))


def gelu_erf(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def gelu_quick(x: Array) -> Array:
    return x * sigmoid(1.702 * x)


def gelu_quick_f16(x: Array) -> Array:
    """`gelu_quick` by ggml's table: what goes in and what comes out is rounded to float16."""
    with np.errstate(over="ignore"):
        rounded = x.astype(np.float16).astype(np.float64)
        return gelu_quick(rounded).astype(np.float32).astype(np.float16).astype(np.float64)


def _gelu_table(x: Array) -> Array:
    return gelu_f16(x.astype(np.float32)).astype(np.float64)


FUNCTIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "ABS": np.abs,
        "SGN": np.sign,
        "NEG": np.negative,
        "STEP": lambda x: (x > 0).astype(np.float64),
        "TANH": np.tanh,
        "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        "RELU": lambda x: np.maximum(x, 0),
        "SIGMOID": sigmoid,
        "GELU": gelu_tanh,
        "GELU_QUICK": gelu_quick,
        "GELU_ERF": gelu_erf,
        "SILU": silu,
        "HARDSWISH": lambda x: x * np.clip((x + 3) / 6, 0, 1),
        "HARDSIGMOID": lambda x: np.clip((x + 3) / 6, 0, 1),
        "EXP": np.exp,
        "EXPM1": np.expm1,
        "SOFTPLUS": softplus,
        "FLOOR": np.floor,
        "CEIL": np.ceil,
        "ROUND": np.round,
        "TRUNC": np.trunc,
    }
)
"""Functions of one value by ggml's names."""

_TABLES: Mapping[str, Callable[[Array], Array]] = MappingProxyType({"GELU": _gelu_table, "GELU_QUICK": gelu_quick_f16})
"""Functions that ggml's CPU backend looks up."""
_BY_TABLE = "a table of float16"


def unary(op: Operands) -> OpWays:
    """A function of one value, by name."""
    name, values = op.text("function"), op.values(0)
    if name == "XIELU":
        yield OpWay(_xielu(op, values))
        return
    if name in _TABLES and not op.exact:
        yield OpWay(_TABLES[name](values), _BY_TABLE)
    yield OpWay(FUNCTIONS[name](values))


def _xielu(op: Operands, x: Array) -> Array:
    """Huang & Schlag 2024 (arXiv:2411.13010), as ggml parametrises it."""
    below, above, beta, epsilon = (op.number(name) for name in ("alpha_n", "alpha_p", "beta", "epsilon"))
    return np.where(x > 0, above * x * x + beta * x, (np.expm1(np.minimum(x, epsilon)) - x) * below + beta * x)


def glu(op: Operands) -> OpWays:
    """A gate through a function, times the other half; two sources, or the halves of one."""
    kind = op.text("function")
    if op.has(1):
        gate, other = op.values(0), op.values(1)
    else:
        halves = np.split(op.values(0), 2, axis=-1)
        gate, other = halves[::-1] if op.whole("swapped") else halves
    if kind == "SWIGLU_OAI":
        limit = op.number("limit")
        gate, other = np.minimum(gate, limit), np.clip(other, -limit, limit) + 1
        yield OpWay(gate * sigmoid(op.number("alpha") * gate) * other)
        return
    if kind == "SWIGLU_CLAMP":
        limit = op.number("limit")
        yield OpWay(silu(np.minimum(gate, limit)) * np.clip(other, -limit, limit))
        return
    name = {"REGLU": "RELU", "GEGLU": "GELU", "SWIGLU": "SILU", "GEGLU_ERF": "GELU_ERF", "GEGLU_QUICK": "GELU_QUICK"}
    if name[kind] in _TABLES and not op.exact:
        yield OpWay(_TABLES[name[kind]](gate) * other, _BY_TABLE)
    yield OpWay(FUNCTIONS[name[kind]](gate) * other)
