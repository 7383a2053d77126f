"""Alternatives of norms and biases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.alternatives import rows
from aprtui.engine.alternatives.alternative import (
    Alternative,
    Attempt,
    Parameters,
    configured,
    distance,
    nicest,
    parametrised,
    plain,
)
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.places import behind, layer_words
from aprtui.engine.rounding import ROUND
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import Node

Wide = NDArray[np.float64]

_NORMS = (Op.RMS_NORM, Op.HEAD_RMS_NORM)
_LEAST_SHARE = 1e-5
"""What an epsilon must differ by to be another one: files hold it as float32."""
_EPSILONS = (1e-5, 1e-6, 1e-12, 0.0)
_STEP = 16
"""Channels that a loop of a kernel takes at once, at the least."""
_AS_WHOLE = 1e-4


def _epsilons(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    own = call.model.config.norm_epsilon
    if found is None:
        candidates = list(_EPSILONS)
    else:
        solved = _solved_epsilon(call, found)
        candidates = [] if solved is None else [solved]
    for epsilon in candidates:
        if abs(epsilon - own) > _LEAST_SHARE * own:
            yield with_epsilon(call, epsilon)


def with_epsilon(call: StageCall, epsilon: float) -> Attempt:
    """A norm with another epsilon."""
    words = f"computed with epsilon {epsilon:.6g}, the model says {call.model.config.norm_epsilon:.6g}"
    return configured(words, lambda c: {"norm_epsilon": epsilon}, 1)


def _solved_epsilon(call: StageCall, found: Array) -> float | None:
    """What is added to the mean of squares, from the factor of each row: best seen where the mean is small."""
    x = rows.normed_rows(call)
    (weight,) = call.model.params(call.node)
    times = x * weight.dequantize().reshape(-1).astype(np.float64)
    values = found.astype(np.float64).reshape(times.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = (values * times).sum(-1) / (times * times).sum(-1)
    means = (x * x).mean(-1)
    good = np.isfinite(factors) & (factors > 0) & (means > 0)
    if not good.any():
        return None
    factors, means = factors[good], means[good]
    weights = 1 / means**2
    epsilon = float(((1 / factors**2 - means) * weights).sum() / weights.sum())
    scale = float((1 / means).mean())

    def cost(value: float) -> float:
        with np.errstate(invalid="ignore"):
            left = factors * np.sqrt(means + value) - 1
        return float("inf") if np.isnan(left).any() else float((left**2 / means).mean() / scale)

    if epsilon <= 0 or cost(0.0) <= max(1.1 * cost(epsilon), 1e-13):
        return 0.0
    return nicest(epsilon, cost)


def _measured_means(call: StageCall, found: Array) -> Wide | None:
    """The mean of squares that each row was divided by the root of, `[rows]`, from the factor of the row."""
    x = rows.normed_rows(call)
    (weight,) = call.model.params(call.node)
    times = x * weight.dequantize().reshape(-1).astype(np.float64)
    values = found.astype(np.float64).reshape(times.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = ((values * times).sum(-1) / (times * times).sum(-1)).reshape(-1)
        means = 1 / factors**2 - call.model.config.norm_epsilon
    return np.asarray(means) if np.isfinite(means).all() and (factors > 0).all() and (means > 0).all() else None


def _sums(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Squares of some channels only, and sums that are divided by another number."""
    means = None if found is None else _measured_means(call, found)
    if means is None:
        return
    x = rows.normed_rows(call)
    squares = (x * x).reshape(-1, x.shape[-1])
    width = squares.shape[1]
    sums = np.cumsum(squares, 1)
    for end, partial_sums in (("first", sums), ("last", sums[:, -1:] - sums)):
        counts = np.arange(_STEP, width, _STEP)
        kept = partial_sums[:, counts - 1] if end == "first" else partial_sums[:, width - counts - 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            divisors = kept / means[:, None]
            spread = np.ptp(divisors, 0) / divisors.mean(0)
        if not np.isfinite(spread).any():
            continue
        at = int(np.nanargmin(spread))
        divisor, count = float(np.median(divisors[:, at])), int(counts[at])
        by = width if abs(divisor / width - 1) < _AS_WHOLE else round(divisor)
        if by > 0:
            of = "" if by == width else f" and divided by {by}"
            yield Attempt(
                f"only the {end} {count} channels of {width} are squared and summed{of}",
                partial(_with_sum, slice(0, count) if end == "first" else slice(width - count, width), by), 1,
            )  # fmt: skip
    divisor = float(np.median(sums[:, -1] / means))
    if round(divisor) not in (0, 1, width):
        yield Attempt(
            f"the sum of squares is divided by {round(divisor)}, the width is {width}",
            partial(_with_sum, slice(0, width), round(divisor)), 1,
        )  # fmt: skip


def _with_sum(channels: slice, divisor: int, call: StageCall) -> Array:
    x = rows.normed_rows(call)
    total = (x[..., channels] ** 2).sum(-1, keepdims=True)
    return rows.weighted(call, x / np.sqrt(total / divisor + call.model.config.norm_epsilon))


def _roundings(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Normalised rows that are rounded before they are multiplied by the weight."""
    for kind, name in (("bf16", "bfloat16"), ("f16", "float16")):
        yield Attempt(f"rows are rounded to {name} before the weight", partial(_rounded, kind))


def _rounded(kind: str, call: StageCall) -> Array:
    normalised = rows.normalised(rows.normed_rows(call), call.model.config.norm_epsilon)
    return rows.weighted(call, ROUND[kind](normalised.astype(np.float32)).astype(np.float64))


def _in_16_bits(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A norm that is computed in 16 bits throughout, but for its weight."""
    for kind, name in (("bf16", "bfloat16"), ("f16", "float16")):
        root, count = None, 0
        if found is not None:
            x = ROUND[kind](rows.normed_rows(call).astype(np.float32)).astype(np.float64)
            (weight,) = call.model.params(call.node)
            times = x * weight.dequantize().reshape(-1).astype(np.float64)
            values = found.astype(np.float64).reshape(times.shape)
            with np.errstate(divide="ignore", invalid="ignore"):
                root = (values * times).sum(-1, keepdims=True) / (times * times).sum(-1, keepdims=True)
            count = root.size
        yield Attempt(f"computed in {name} throughout, but for the weight", partial(rows.in_16_bits, kind, root), count)


def _other_bits(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A weight of 16 bits that is taken for the other type of 16 bits."""
    for name, read in (("bfloat16 is read as float16", _as_float16), ("float16 is read as bfloat16", _as_bfloat16)):
        yield Attempt(f"the weight's {name}: the same bits, another type", partial(_by_bits, read))


def _as_float16(stored: Wide) -> Wide:
    bits = (stored.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits.view(np.float16).astype(np.float64)


def _as_bfloat16(stored: Wide) -> Wide:
    bits = stored.astype(np.float16).view(np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32).astype(np.float64)


def _by_bits(read: Callable[[Wide], Wide], call: StageCall) -> Array:
    (own,) = call.model.params(call.node)
    # What a checkpoint holds is the weight without the 1 that a converter adds.
    offset = 1 if call.model.config.norm_offset else 0
    return _by_weight(read(own.dequantize().reshape(-1).astype(np.float64) - offset) + offset, call)


def _by_weight(weight: Wide, call: StageCall) -> Array:
    return rows.narrow(call, rows.normalised(rows.normed_rows(call), call.model.config.norm_epsilon) * weight)


def _row_factors(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A factor for each row: what is right but for the root that it is divided by."""
    means = None if found is None else _measured_means(call, found)
    if means is None:
        return
    x = rows.normed_rows(call)
    own = (x * x).mean(-1).reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.sqrt((own + call.model.config.norm_epsilon) / (means + call.model.config.norm_epsilon))
    off = float(np.abs(factors - 1).max())
    yield Attempt(
        f"the root that each token is divided by is off by up to {100 * off:.2g} %: an estimated root, or a sum of few "
        "bits",
        lambda c: (c.honest().reshape(len(factors), -1) * factors[:, None]).reshape(c.honest().shape)
        .astype(np.float32), len(factors),
    )  # fmt: skip


def _own_weights(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A factor for each channel: a weight that is no norm's of this model."""
    if found is None:
        return
    x = rows.normalised(rows.normed_rows(call), call.model.config.norm_epsilon)
    values = found.astype(np.float64).reshape(x.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        measured = (values * x).sum((0, 1)) / (x * x).sum((0, 1))
    if np.isfinite(measured).all():
        (own,) = call.model.params(call.node)
        ratios = measured / own.dequantize().reshape(-1)
        yield Attempt(
            f"the weight is none of the model's norms: {ratios.min():.4g} … {ratios.max():.4g} times its own",
            partial(_by_weight, measured), len(measured),
        )  # fmt: skip


def _norm_weights(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """The weight of another norm, of any layer: that which is nearest to the factor of each channel."""
    (own,) = call.model.params(call.node)
    graph, config = call.model.graph, call.model.config
    norms = [node for node in graph.nodes if graph[node.stage].op in _NORMS and node != call.node]
    named = {node: call.model.params(node)[0] for node in norms}
    named = {node: weight for node, weight in named.items() if weight.columns == own.columns}
    if found is None:
        chosen = [node for node in named if behind(call.node, node) in (-1, 0, 1)][:4]
    else:
        x = rows.normalised(rows.normed_rows(call), config.norm_epsilon)
        values = found.astype(np.float64).reshape(x.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            measured = (values * x).sum((0, 1)) / (x * x).sum((0, 1))
        errors = {node: distance(weight.dequantize().reshape(-1), measured) for node, weight in named.items()}
        chosen = sorted(errors, key=lambda node: errors[node])[:1]
    for node in chosen:
        yield parametrised(
            f"has the weight of {layer_words(call.node, node)}",
            lambda c, weight=named[node]: [weight],  # type: ignore[misc]
        )


def _whole_row(call: StageCall) -> Array:
    """The heads are normalised together."""
    x = rows.normed_rows(call)
    whole = rows.normalised(x.reshape(len(x), 1, -1), call.model.config.norm_epsilon)
    return rows.weighted(call, whole.reshape(x.shape))


def _has_offset(model: Model, node: Node) -> bool:
    return model.config.norm_offset


def _has_own(model: Model, node: Node) -> bool:
    return not model.config.norm_offset


def _weighing(
    name: str, change: Callable[[Array], Array], words: str, advice: str,
    applies: Callable[[Model, Node], bool] = lambda model, node: True,
) -> Alternative:  # fmt: skip
    """A norm whose weight is changed on its way in."""

    def params(call: StageCall) -> Parameters:
        return [weight.of_values(change(weight.dequantize())) for weight in call.model.params(call.node)]

    attempt = parametrised(words, params)
    return Alternative(name, frozenset(_NORMS), lambda call, found: [attempt], advice, applies)


NORM_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative(
        "norm epsilon", frozenset(_NORMS), _epsilons, "read attention.layer_norm_rms_epsilon of the model's metadata"
    ),
    plain(
        "norm epsilon outside", _NORMS, rows.epsilon_outside, "epsilon is added outside the root",
        "x / √(mean(x²) + ε)",
    ),
    plain(
        "norm mean subtracted", _NORMS, rows.mean_taken_off, "the mean is subtracted: a layer norm",
        "a root-mean-square norm subtracts nothing",
    ),
    plain(
        "norm sum for mean", _NORMS, rows.sum_for_mean, "squares are summed and not divided by their number",
        "divide the sum of squares by the number of channels",
    ),
    _weighing(
        "norm weight left out", np.ones_like, "the weight is left out", "multiply by the weight behind the division"
    ),
    _weighing(
        "norm 1 + weight", lambda weight: 1 + weight, "multiplied by 1 + weight",
        "multiply by the weight as it is: a GGUF file of Gemma holds the sum", _has_own,
    ),
    _weighing(
        "norm 1 + weight twice", lambda weight: 1 + weight, "1 is added to a weight that holds it already",
        "multiply by the weight as the GGUF file holds it", _has_offset,
    ),
    _weighing(
        "norm offset left out", lambda weight: weight - 1, "1 is not added to the weight",
        "multiply by 1 + weight where weights are those of the checkpoint", _has_offset,
    ),
    Alternative("norm weight", frozenset(_NORMS), _norm_weights, "check which tensor is bound to this norm"),
    plain(
        "norm of the whole row", (Op.HEAD_RMS_NORM,), _whole_row, "normalised over all heads together",
        "normalise each head by itself",
    ),
    plain(
        "norm squares in float16", _NORMS, rows.squares_in_f16, "squares are summed in float16",
        "sum squares in float32",
    ),
    plain(
        "norm squares of float16", _NORMS, rows.squares_of_f16,
        "squares are taken in float16: beyond 65504 they are Inf", "square in float32",
    ),
    plain(
        "norm squares in bfloat16", _NORMS, rows.squares_in_bf16, "squares are computed in bfloat16",
        "square and sum in float32",
    ),
    Alternative("norm in 16 bits", frozenset(_NORMS), _in_16_bits, "compute the norm in float32 and round its result"),
    Alternative("norm sum", frozenset(_NORMS), _sums, "square and sum all channels, and divide by their number"),
    plain(
        "norm twice", _NORMS, lambda call: call.honest(call.honest()), "normalised twice",
        "normalise once", lambda model, node: model.graph[node.stage].op is Op.RMS_NORM,
    ),
    Alternative(
        "norm rounded", frozenset(_NORMS), _roundings, "keep rows in float32, or state it: --rounding",
        may_be_meant=True,
    ),
    Alternative("norm weight's type", frozenset(_NORMS), _other_bits, "read the weight as the type that the file says"),
)  # fmt: skip

NORM_DETAILS: tuple[Alternative, ...] = (
    Alternative(
        "norm root",
        frozenset(_NORMS),
        _row_factors,
        "compute the root and the sum below it in float32",
        of_result=True,
    ),
    Alternative("norm's own weight", frozenset(_NORMS), _own_weights, "check the tensor that is bound to this norm"),
)
"""What is left where nothing says more: they need a number for each row, or for each channel."""


# Biases.

_PARTS = ((Part.Q, "queries"), (Part.K, "keys"), (Part.V, "values"))


def _biases(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Each part of the bias by itself: left out, twice, or that of another layer."""
    own = _bias(call)
    fused = len(call.model.params(call.node)) > 1
    parts = [(call.model.config.graph.part(part), name) for part, name in _PARTS] if fused else [(slice(None), "")]
    if found is None:
        for columns, name in parts if not fused else [*parts, (slice(None), "")]:
            of = f" for {name}" if name else ""
            yield Attempt(f"the bias is left out{of}", partial(_without_bias, columns))
        return
    with np.errstate(invalid="ignore"):
        measured = (found.astype(np.float64) - call.x).mean(0)
    choices: dict[str, Array] = {"is left out": np.zeros_like(own), "is added twice": 2 * own, "": own}
    for node in call.model.graph.nodes:
        if node.stage == call.node.stage and node != call.node:
            vector = np.concatenate([weight.dequantize().reshape(-1) for weight in call.model.params(node)])
            choices[f"is that of {layer_words(call.node, node)}"] = vector
    chosen, words = own.copy(), []
    for columns, name in parts:
        nearest = min(choices, key=lambda key: float(np.linalg.norm(choices[key][columns] - measured[columns])))
        chosen[columns] = choices[nearest][columns]
        if nearest:
            words.append((nearest, name))
    if not words:
        return
    kinds = dict.fromkeys(kind for kind, _ in words)
    texts = [f"{kind}{_of([n for k, n in words if k == kind], len(parts))}" for kind in kinds]
    yield Attempt(f"the bias {', and '.join(texts)}", _adding(chosen))


def _bias(call: StageCall) -> Array:
    return np.concatenate([weight.dequantize().reshape(-1) for weight in call.model.params(call.node)])


def _without_bias(columns: slice, call: StageCall) -> Array:
    vector = _bias(call)
    vector[columns] = 0
    return np.asarray(call.x + vector, np.float32)


def _of(names: list[str], total: int) -> str:
    return "" if len(names) == total or not names[0] else f" for {' and '.join(names)}"


def _adding(vector: Array) -> Callable[[StageCall], Array]:
    return lambda call: np.asarray(call.x + vector, np.float32)


BIAS_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("bias", frozenset({Op.BIAS}), _biases, "add the bias of this layer once, to queries, keys and values"),
)
