"""Alternatives of any stage: what was done to its result, and which other stages it was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted, ranges
from aprtui.engine.alternatives.alternative import Alternative, Attempt, Attempts, distance, nicest, reading
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.nearest_channels import nearest_channels
from aprtui.engine.alternatives.places import layer_words
from aprtui.engine.rounding import ROUND
from aprtui.model.config import ModelConfig
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import ENTRY, Node

Wide = NDArray[np.float64]

_FIXED = frozenset({Op.CHOOSE_EXPERTS})
"""Ops whose results are no values."""
ANY = frozenset(op for op in Op if op not in _FIXED)
_NEAR = 1e-3
_FACTOR_LEFT = 0.05
_LEAST_FACTOR = 1e-6
_MOST_LISTED = 64
_MOST_HEADS = 12
_MOST_BACK = 16
"""Tokens before the last, of which a row of logits may be."""
_ROWS_OF_ORDER = 3
"""Tokens from which the order of channels can be read from their values."""


def named_number(value: float, config: ModelConfig) -> str:
    """What a factor is, where it is known as something, and is no number that means itself."""
    if value in (0.5, 2.0):
        return ""
    graph = config.graph
    d, hidden = graph.head_dim, graph.hidden
    names = {
        "√head size": d**0.5, "1/√head size": d**-0.5, "1/head size": 1 / d, "√hidden size": hidden**0.5,
        "1/√hidden size": hidden**-0.5, "√(head size / hidden size)": (d / hidden) ** 0.5, "√2": 2**0.5,
        "1/√2": 2**-0.5, "the embedding's scale": config.embedding_scale, "log₂ e": float(np.log2(np.e)),
        "one over the embedding's scale": 1 / config.embedding_scale,
    }  # fmt: skip
    return next((f" ({name})" for name, number in names.items() if abs(value / number - 1) < 1e-5 and number != 1), "")


def _factors(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    if found is None:
        yield from _usual_scales(call)
        return
    own, values = call.honest().astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(own) & np.isfinite(values)
    own, values = own[finite], values[finite]
    square = float((own * own).sum())
    if not square:
        return
    factor = float((own * values).sum()) / square

    def cost(value: float) -> float:
        return float(((values - value * own) ** 2).sum()) / square

    if cost(factor) > _FACTOR_LEFT:
        return
    factor = nicest(factor, cost)
    if factor and abs(factor - 1) > 1e-6:
        what = f"multiplied by {factor:.8g}{named_number(factor, call.model.config)}"
        if call.op is Op.SCORES:
            scale = call.model.config.score_scale
            product = f"{scale * factor:.6g}{named_number(scale * factor, call.model.config)}"
            what = f"scaled by {product}, the model says {scale:.6g}"
        words = "the sign is the other" if factor == -1 else what
        yield Attempt(words, lambda c: (c.honest() * np.float32(factor)).astype(np.float32), 1)


def _usual_scales(call: StageCall) -> Iterator[Attempt]:
    """Scales of the scores that people write."""
    graph, own = call.model.config.graph, call.model.config.score_scale
    for scale in (1.0, graph.head_dim**-0.5, 1 / graph.head_dim, graph.hidden**-0.5) if call.op is Op.SCORES else ():
        if abs(scale / own - 1) > 1e-6:
            yield Attempt(
                f"scaled by {scale:.6g}{named_number(scale, call.model.config)}, the model says {own:.6g}",
                lambda c, factor=scale / own: (c.honest() * np.float32(factor)).astype(np.float32), 1,  # type: ignore[misc]
            )  # fmt: skip


def _zeros(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Channels (of maps: heads) and tokens that are zero throughout."""
    if found is None:
        return
    own, one_map = call.honest(), found.ndim == 3
    channels = np.flatnonzero((found == 0).all((1, 2) if one_map else 0) & (own != 0).any((1, 2) if one_map else 0))
    if channels.size:
        yield Attempt(
            f"{channel_words(call, channels.tolist(), own.shape, one_map)} zero: not computed, or not written",
            lambda c: with_value(c.honest(), channels, one_map, np.float32(0)),
        )  # fmt: skip
    if one_map:
        return
    tokens = np.flatnonzero((found == 0).all(1) & (own != 0).any(1))
    if tokens.size:
        yield Attempt(
            f"token{'s' if tokens.size > 1 else ''} {ranges((tokens + call.position).tolist())} "
            f"{'are' if tokens.size > 1 else 'is'} zero",
            lambda c: with_value(c.honest(), tokens, True, np.float32(0)),
        )  # fmt: skip


def channel_words(call: StageCall, channels: Sequence[int], shape: tuple[int, ...], is_map: bool) -> str:
    total = shape[0] if is_map else shape[-1]
    noun = "head" if is_map else "channel"
    dim = call.head_dim
    heads = sorted({channel // dim for channel in channels})
    if not is_map and call.op is Op.ATTEND and len(channels) == len(heads) * dim:
        noun, channels, total = "head", heads, total // dim
    plural = len(channels) > 1
    text = ranges(channels) if len(channels) <= _MOST_LISTED else counted(len(channels), noun)
    last = ", the last" if channels and channels[-1] == total - 1 and plural else ""
    if len(channels) > _MOST_LISTED and channels[-1] - channels[0] + 1 != len(channels):
        return f"{text} of {total} are"
    return f"{noun}{'s' if plural else ''} {ranges(channels)}{last} {'are' if plural else 'is'}"


def with_value(own: Array, at: NDArray[np.intp], first_axis: bool, value: np.float32) -> Array:
    changed = own.copy()
    if first_axis:
        changed[at] = value
    else:
        changed[:, at] = value
    return changed


def _stale(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Rows that hold what belongs to the token before."""
    if call.honest().ndim == 3 or len(call.honest()) < 2:
        return
    own = call.honest()
    rows = np.array([len(own) - 1])
    if found is not None:
        rows = np.array([at for at in range(1, len(own)) if _is_row(found[at], own[at - 1], own[at])], np.intp)
    if 0 < len(rows) < len(own) - 1:
        tokens = (rows + call.position).tolist()
        last = tokens == [call.position + len(own) - 1]
        which = "the last token" if last else f"token{'s' if len(tokens) > 1 else ''} {ranges(tokens)}"
        has = "have" if len(tokens) > 1 else "has"
        yield Attempt(f"{which} {has} the values of the one before", lambda c: _stale_rows(c.honest(), rows))
    yield Attempt("each token has the values of the one before", _all_stale)


def _is_row(found: Array, before: Array, own: Array) -> bool:
    return distance(before, found) < _NEAR <= distance(own, found)


def _stale_rows(own: Array, rows: NDArray[np.intp]) -> Array:
    changed = own.copy()
    changed[rows] = own[rows - 1]
    return changed


def _all_stale(call: StageCall) -> Array:
    own = call.honest()
    return np.concatenate([own[:1], own[:-1]])


def _clamps(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Values that saturate, or are Inf or NaN, beyond a limit."""
    if found is None:
        return
    own = call.honest()
    finite = np.isfinite(found)
    if not finite.any():
        return
    largest = float(np.abs(found[finite]).max())
    if largest < float(np.abs(own).max()):
        of_type = _largest_of(largest)
        yield Attempt(
            f"values saturate at {largest:.6g}{of_type}",
            lambda c: np.clip(c.honest(), -largest, largest), fitted=0 if of_type else 1,
        )  # fmt: skip
    if call.op is Op.SOFTMAX:
        return  # What is 1 at most does not overflow.
    for lost, name in ((np.isinf(found), "Inf"), (np.isnan(found), "NaN")):
        lost &= np.isfinite(own)
        if lost.any():
            limit = float(np.abs(own[lost]).min())
            text = "65504, the largest float16," if limit > _LARGEST["float16"] else f"{limit:.6g}"
            yield Attempt(
                f"values beyond {text} are {name}: an overflow",
                partial(_lost_beyond, np.float32(limit), np.float32(name.lower())),
            )  # fmt: skip


_LARGEST = {"float16": 65504.0, "FP8 (e4m3)": 448.0, "FP8 (e5m2)": 57344.0, "int8": 127.0, "bfloat16": 3.3895314e38}


def _largest_of(limit: float) -> str:
    return next((f", the largest {name}" for name, most in _LARGEST.items() if abs(limit / most - 1) < 1e-6), "")


def _lost_beyond(limit: np.float32, value: np.float32, call: StageCall) -> Array:
    own = call.honest()
    return np.where(np.abs(own) >= limit, np.copysign(value, own), own)


def _sixteen_bits(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    for kind, name in (("f16", "float16"), ("bf16", "bfloat16")):
        if found is None or np.array_equal(ROUND[kind](found), found, equal_nan=True):
            yield Attempt(f"the result is kept in {name}", partial(_kept, kind))


def _kept(kind: str, call: StageCall) -> Array:
    return ROUND[kind](call.honest())


def _orders(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Channels in another order: each found one is looked for among the model's own."""
    own = call.honest()
    if found is None:
        return
    if own.ndim == 3:
        heads = np.array([min(range(len(own)), key=lambda h: distance(own[h], seen)) for seen in found])
        if (heads != np.arange(len(own))).any():
            yield Attempt(heads_words(heads), lambda c: np.ascontiguousarray(c.honest()[heads]))
        return
    order = nearest_channels(own.astype(np.float64), found.astype(np.float64))
    if order is None:
        return
    moved = np.flatnonzero(order != np.arange(len(order)))
    is_roll = np.unique((order - np.arange(len(order))) % len(order)).size == 1
    if moved.size and (len(own) >= _ROWS_OF_ORDER or is_roll):
        yield Attempt(
            _order_words(call, order, moved),
            lambda c: np.ascontiguousarray(c.honest()[:, order]),
            fitted=1 if is_roll else moved.size // 4,
        )


def heads_words(order: NDArray[np.intp]) -> str:
    """Which head stands at each place; of many, the places of others only."""
    if len(order) <= _MOST_HEADS:
        return f"heads are in the order {order.tolist()}"
    moved = np.flatnonzero(order != np.arange(len(order)))[:_MOST_HEADS]
    return f"heads {ranges(moved.tolist())} have the values of heads {', '.join(map(str, order[moved]))}"


def _order_words(call: StageCall, order: NDArray[np.intp], moved: NDArray[np.intp]) -> str:
    width, dim = len(order), call.head_dim
    steps = np.unique((order - np.arange(width)) % width)
    if steps.size == 1:
        step = int(steps[0]) if steps[0] <= width // 2 else int(steps[0]) - width
        return f"each channel has the value of {counted(abs(step), 'channel')} {'behind' if step > 0 else 'before'}"
    if dim and width % dim == 0 and width > dim:
        heads = order.reshape(-1, dim)
        if (heads % dim == np.arange(dim)).all() and (heads // dim == heads[:, :1] // dim).all():
            return heads_words(heads[:, 0] // dim)
    if steps.size == 2 and len({int(abs(s)) for s in np.unique(order - np.arange(width)) if s}) == 1:
        return f"channels {ranges(moved.tolist()[:_MOST_LISTED])} are exchanged"
    return f"{counted(moved.size, 'channel')} of {width} are in another order"


def _is_other(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """The stage is another one that was captured."""
    graph = call.model.graph
    if found is None or found.ndim != 2:
        return
    near = captured_like(call, found.shape[1], found.shape[0])
    errors = {name: distance(values, found) for name, values in near.items()}
    nearest = min(errors, key=lambda name: errors[name], default=None)
    if nearest is not None:
        (node, part), values = nearest, near[nearest]
        is_input = node in graph.inputs(call.node)
        words = f"the values are those of {source_words(call.node, node, part)}"
        if graph[call.node.stage].op is Op.ADD and is_input:
            others = [source for source in graph.inputs(call.node) if source != node]
            words = f"{source_words(call.node, others[0], Part.WHOLE) if others else 'the other'} is not added"
        elif is_input:
            words = f"left out: {words}"
        yield Attempt(words, lambda c: np.ascontiguousarray(values))


def _rewired(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """The stage is made of another one in place of one of its inputs."""
    graph = call.model.graph
    for index, given in enumerate(call.inputs):
        if given.ndim != 2 or not len(given) or call.op is Op.EMBED:
            continue
        for (node, part), values in captured_like(call, given.shape[1], given.shape[0]).items():
            if values is given or (node == graph.inputs(call.node)[index] and _is_own_part(call, index, part)):
                continue
            source = graph.inputs(call.node)[index]
            yield reading(
                f"reads {source_words(call.node, node, part)} in place of "
                f"{source_words(call.node, source, graph.entries(call.node)[index].part)}",
                {index: values},
            )


def _other_rows(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Of a stage that holds the last rows only: what is computed from the rows of other tokens."""
    for index, source in enumerate(call.model.graph.inputs(call.node)):
        if source not in set(call.seen) or call.inputs[index].ndim != 2:
            continue
        rows, part = len(call.inputs[index]), call.model.graph.entries(call.node)[index].part
        values = call.seen[source][:, call.model.config.graph.part(part)]
        for back in range(1, min(len(values) - rows, _MOST_BACK) + 1):
            shifted = np.ascontiguousarray(values[-rows - back : len(values) - back])
            which = "the token before" if back == 1 else f"token {len(call.tokens) + call.position - 1 - back}"
            yield reading(f"reads {source.stage} of {which}", {index: shifted})


def _is_own_part(call: StageCall, index: int, part: Part) -> bool:
    return call.model.graph.entries(call.node)[index].part is part


def captured_like(call: StageCall, width: int, rows: int) -> dict[tuple[Node, Part], Array]:
    """The captured stages before the node, of this layer and of the one before, and the embedding, that have `width`
    and `rows`; parts of fused ones as well. Of what was computed from it, any stage could be put together again."""
    graph, config = call.model.graph, call.model.config.graph
    layer = graph.layers if call.node.layer is None else call.node.layer
    layers = {layer, layer - 1, None}
    found: dict[tuple[Node, Part], Array] = {}
    parts = (Part.WHOLE, Part.Q, Part.K, Part.V)
    held = set(call.seen)
    for node in graph.nodes:
        if graph.order[node] >= graph.order[call.node] or node not in held:
            continue
        if node.layer not in layers and node.stage != ENTRY:
            continue
        stage = graph[node.stage]
        if stage.is_attention_map or stage.holds_indices:
            continue
        for part in parts if stage.width == config.qkv_width else parts[:1]:
            columns = config.part(part)
            size = len(range(*columns.indices(stage.width)))
            if size == width:
                values = call.seen[node]
                if len(values) >= rows:
                    found[node, part] = np.ascontiguousarray(values[-rows:, columns])
    return found


_PART_WORDS = {Part.Q: "queries of ", Part.K: "keys of ", Part.V: "values of ", Part.WHOLE: ""}


def source_words(node: Node, other: Node, part: Part) -> str:
    name = layer_words(node, other) if other.layer is not None and other.layer != node.layer else other.stage
    if other.stage == node.stage and other.layer != node.layer:
        name = f"{other.stage} of {name}"
    return f"{_PART_WORDS.get(part, '')}{name}"


def of_result(name: str, attempts: Attempts, advice: str, *, may_be_meant: bool = False) -> Alternative:
    """An alternative of any stage that changes nothing but its result."""
    return Alternative(name, ANY, attempts, advice, may_be_meant=may_be_meant, of_result=True)


_VALUES = "check the buffer that the stage is written to, and that all of it is"

_WIRING = "check which buffers the op reads, and that none is overwritten before"

RESULT_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("wiring", ANY, _is_other, _WIRING),
    Alternative("wiring", ANY, _rewired, _WIRING),
    Alternative("token before", ANY, _other_rows, "take the row of the last position"),
    of_result("factor", _factors, "look for a scale that is missing, or applied twice"),
    of_result("zeros", _zeros, _VALUES),
    of_result("stale", _stale, "write the row before it is read"),
    of_result("order", _orders, "check the order of rows of the weight, or the split of heads"),
    of_result("overflow", _clamps, "keep the values in a type of a wider range"),
    of_result("16 bits", _sixteen_bits, "keep the result in float32, or state it: --rounding", may_be_meant=True),
)


def _operands(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """What each of the two is multiplied by before they are added."""
    if found is None:
        return
    a, b, values = (x.astype(np.float64).ravel() for x in (*call.inputs, found))
    finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(values)
    sides = np.stack([a[finite], b[finite]], 1)
    solved, *_ = np.linalg.lstsq(sides, values[finite], rcond=None)
    square = float((values[finite] ** 2).sum()) or 1.0

    def cost_of(side: int) -> Callable[[float], float]:
        def cost(value: float) -> float:
            factors = [*solved[:side], value, *solved[side + 1 :]]
            return float(((sides @ np.array(factors) - values[finite]) ** 2).sum()) / square

        return cost

    for side in (0, 1):
        solved[side] = nicest(float(solved[side]), cost_of(side))
    one, two = (float(value) for value in solved)
    off = [(source, value) for source, value in zip(call.model.graph.inputs(call.node), (one, two), strict=True)
           if abs(value - 1) > 1e-6]  # fmt: skip
    if off and one != two and min(abs(one), abs(two)) > _LEAST_FACTOR:
        texts = [_operand_words(call.node, source, value, call.model.config) for source, value in off]
        yield Attempt(
            " and ".join(texts),
            lambda c: np.asarray(np.float32(one) * c.inputs[0] + np.float32(two) * c.inputs[1], np.float32), len(off),
        )  # fmt: skip


def _operand_words(node: Node, source: Node, value: float, config: ModelConfig) -> str:
    name = source_words(node, source, Part.WHOLE)
    if value == -1:
        return f"{name} is subtracted"
    return f"{name} is multiplied by {value:.6g}{named_number(value, config)} before it is added"


RESIDUAL_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative(
        "residual factor", frozenset({Op.ADD}), _operands,
        "add both as they are, unless the model's metadata has a residual scale",
    ),
    Alternative(
        "residual twice", frozenset({Op.ADD}),
        lambda call, found: [Attempt("the residual is added twice", lambda c: c.inputs[0] + c.honest())],
        "add what entered the block once",
    ),
)  # fmt: skip
