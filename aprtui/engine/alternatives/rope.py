"""Alternatives of RoPE. Angles are measured: how far each channel pair was turned at each position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.alternatives import attention, positions
from aprtui.engine.alternatives.alternative import Alternative, Attempt, configured, least, nicest, plain
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.positions import own_rope, pairs_of
from aprtui.engine.rounding import ROUND, round_f16
from aprtui.model.config import Rope, Yarn
from aprtui.model.model import Model
from aprtui.trace.graph.config import RopeLayout
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Wide = NDArray[np.float64]
Turns = NDArray[np.complex128]
"""What each pair was turned by, times its squared size, `[tokens, pairs]`, summed over heads."""

_BASES = (1e4, 1e5, 5e5, 1e6, 1e7)
_LEVELS = (8, 32, 128)
_TOKENS = 64
_GRID = 300
_POSITIONS = range(-64, 4096)
_LEAST_SHARE = 1e-6
_BEFORE = 64
_SURE = 0.999
"""Agreement with which a token was turned as at a position."""
_BETTER = 1e-9
_SHOWN_RUNS = 3
_LEAST_TOKENS = 8
_CONTEXTS = tuple(2**power for power in range(9, 19))
_GRID_OF_SCALES = (1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_TURNED = 0.5
"""Agreement from which measured turns are turns at all; noise of other causes has about 0."""


def _turns(call: StageCall, found: Array) -> Turns:
    before, after = pairs_of(call, call.x), pairs_of(call, found)
    return np.asarray((after * before.conj()).sum(1))


def _fitted(call: StageCall, found: Array, rope_of: Callable[[float], Rope], low: float, high: float) -> list[float]:
    """The parameter between `low` and `high` of the rope that turns as was measured, and where it is another, of the
    one that turns so from the first token on, wherever that stands; none where none does."""
    turns = _turns(call, found)
    solved = [_nearest(call, turns, rope_of, low, high, call.position)]
    if len(turns) > 2:
        since_first = turns * np.exp(-1j * np.angle(turns[:1]))
        solved.append(_nearest(call, since_first, rope_of, low, high, 0))
    return list(dict.fromkeys(value for value in solved if value is not None))


def _nearest(
    call: StageCall, turns: Turns, rope_of: Callable[[float], Rope], low: float, high: float, position: int
) -> float | None:  # fmt: skip
    """Over ever more tokens, so that no turn is counted too much or too few."""
    dim, count = call.model.config.graph.rotated, len(turns)

    def costs(logarithms: Sequence[float] | Wide, rows: NDArray[np.intp]) -> Wide:
        steps = np.stack([rope_of(float(np.exp(value))).angles(1, 1, dim)[0] for value in logarithms])
        angles = (rows + position)[None, :, None] * steps[:, None]
        agreement = (turns[rows] * np.exp(-1j * angles)).real.sum((1, 2))
        return np.asarray(1 - agreement / (np.abs(turns[rows]).sum() or 1.0))

    start, end, rows = np.log(low), np.log(high), np.arange(count)
    for level in (*(level for level in _LEVELS if level < count), count):
        rows = np.unique(np.linspace(0, level - 1, min(level, _TOKENS)).astype(np.intp))
        grid = np.linspace(start, end, _GRID)
        at, step = int(np.argmin(costs(grid, rows))), grid[1] - grid[0]
        start, end = grid[at] - 2 * step, grid[at] + 2 * step

    def cost(logarithm: float) -> float:
        return float(costs([logarithm], rows)[0])

    best = least(cost, float(start), float(end))
    if cost(best) > 1 - _TURNED:
        return None
    return nicest(float(np.exp(best)), lambda value: cost(float(np.log(value))))


def _bases(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    own = own_rope(call)
    bases = list(_BASES)
    if found is not None:
        bases = _fitted(call, found, lambda theta: replace(own, theta=theta), 10, 1e9)
    for theta in bases:
        if abs(theta / own.theta - 1) > _LEAST_SHARE:
            yield with_base(call, theta)


def with_base(call: StageCall, theta: float) -> Attempt:
    """RoPE with another base."""
    own = own_rope(call).theta
    halved = ", its root: an exponent of −i/d in place of −2i/d" if abs(theta / own**0.5 - 1) < 1e-3 else ""
    return _with(f"computed with theta {theta:.10g}, the model says {own:.10g}{halved}", 1, theta=theta)


def _scales(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    own = own_rope(call)
    scales = [1.0, 2.0, 4.0, 8.0]
    if found is not None:
        scales = _fitted(call, found, lambda scale: replace(own, scale=scale), 0.05, 256)
    for scale in scales:
        if abs(scale / own.scale - 1) > _LEAST_SHARE:
            yield with_scale(call, scale)


def with_scale(call: StageCall, scale: float) -> Attempt:
    """RoPE with positions that are divided by another number."""
    own, pairs = own_rope(call), call.model.config.graph.rotated / 2
    is_pair = abs(scale / (own.scale * own.theta ** (1 / pairs)) - 1) < 1e-3
    counted = ": the frequencies of pairs that are counted from 1" if is_pair else ""
    return _with(f"positions divided by {scale:.6g}, the model says {own.scale:.6g}{counted}", 1, scale=scale)


def _shifts(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Positions that are off by as much for all tokens, and one position for all of them."""
    shifts, alike = [1, -1], [0]
    if found is not None:
        turns, dim = _turns(call, found), call.model.config.graph.rotated
        step, few = own_rope(call).angles(1, 1, dim)[0], turns[:8]
        rows = call.position + np.arange(len(few))
        turned = np.exp(-1j * np.asarray(_POSITIONS)[:, None] * step)
        shifts = [_POSITIONS[int((turned @ (few * np.exp(-1j * rows[:, None] * step)).sum(0)).real.argmax())]]
        alike = [int((turned[-_POSITIONS.start :] @ few.sum(0)).real.argmax())]
    for shift in shifts:
        if shift:
            at = f"as of position {call.position + shift}" if call.position + shift >= 0 else f"{-shift} earlier"
            first = "the first token" if call.position == 0 else f"token {call.position}"
            yield Attempt(
                f"positions are off by {shift:+d}: {first} is turned {at}",
                partial(positions.moved, shift=shift), 1,
            )  # fmt: skip
    if len(call.x) > 1:
        for place in alike:
            yield Attempt(
                f"every token is turned as of position {place}",
                lambda c, n=place: positions.rotated(c, np.repeat(positions.angles_at(c, n), len(c.x), 0)), 1,  # type: ignore[misc]
            )  # fmt: skip


def _positions(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A position for each token, as its own turns show it: of decoded tokens, of chunks, behind padding."""
    if found is None or len(call.x) < 2:
        return
    turns, dim = _turns(call, found), call.model.config.graph.rotated
    end = call.position + len(turns)
    tried = np.arange(-_BEFORE, max(end, len(turns)) + _BEFORE)
    step = own_rope(call).angles(1, 1, dim)[0]
    sizes = np.abs(turns).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        agreements = (turns @ np.exp(-1j * step[:, None] * tried)).real / sizes[:, None]
    if not sizes.all() or not np.isfinite(agreements).all() or agreements.max(1).min() < _SURE:
        return
    own = np.arange(call.position, end)
    own_agreements = agreements[np.arange(len(own)), own - tried[0]]
    places = np.where(agreements.max(1) > own_agreements + _BETTER, tried[agreements.argmax(1)], own)
    runs = _runs(own, places)
    if runs:
        texts = [_turned_as(*run) for run in runs]
        more = f"; {len(runs) - _SHOWN_RUNS} more such runs" if len(runs) > _SHOWN_RUNS else ""
        angles = places[:, None] * step
        yield Attempt("; ".join(texts[:_SHOWN_RUNS]) + more, lambda c: positions.rotated(c, angles), len(runs))


def _runs(own: NDArray[np.intp], places: NDArray[np.intp]) -> list[tuple[int, int, int, int]]:
    """First and last of neighbouring tokens that are as far off, and where these are; or that are all at one place."""
    runs: list[tuple[int, int, int, int]] = []
    at = 0
    while at < len(own):
        end, same = at + 1, at + 1
        while end < len(own) and places[end] - own[end] == places[at] - own[at]:
            end += 1
        while same < len(own) and places[same] == places[at]:
            same += 1
        if same > end:
            runs.append((int(own[at]), int(own[same - 1]), int(places[at]), int(places[at])))
        elif places[at] != own[at]:
            runs.append((int(own[at]), int(own[end - 1]), int(places[at]), int(places[end - 1])))
        at = max(end, same)
    return runs


def _turned_as(first: int, last: int, place: int, last_place: int) -> str:
    tokens = f"tokens {first}–{last} are" if last > first else f"token {first} is"
    if place == last_place == 0:
        return f"{tokens} not turned: as of position 0"
    places = f"s {place}–{last_place}" if last_place > place else f" {place}"
    return f"{tokens} turned as of position{places}"


def _widths(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    own, dim = call.model.config.graph.rotated, call.head_dim
    widths = [dim // 4, dim // 2, 3 * dim // 4, dim]
    if found is not None:
        moved = np.flatnonzero((call.heads(found) != call.heads(call.x)).any((0, 1)))
        widths = [int(moved[-1]) + 1] if moved.size else []
    for width in dict.fromkeys(widths):
        if width != own and width % 2 == 0:
            yield configured(
                f"{width} of {dim} channels of a head are turned, the model says {own}",
                lambda c, width=width: {"graph": replace(c.model.config.graph, rope_dim=width)},  # type: ignore[misc]
            )


def _factors(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Each pair at a frequency of its own, as scaling by parts makes them."""
    if found is None or len(call.x) < _LEAST_TOKENS:
        return
    turns, dim = _turns(call, found), call.model.config.graph.rotated
    own = replace(own_rope(call), yarn=None, scale=1.0, factors=None)
    measured = _frequencies(turns)
    first = np.angle((turns * np.exp(-1j * np.arange(len(turns))[:, None] * measured)).sum(0))
    if call.position == 0 and np.abs(first[np.abs(turns).sum(0) > 0]).max(initial=0) > 0.01:
        return
    with np.errstate(divide="ignore"):
        factors = np.where(measured > 0, own.angles(1, 1, dim)[0] / measured, np.inf)
    if not np.isfinite(factors).all() or factors.min() < 0.01:
        return
    yield Attempt(
        f"frequencies of channel pairs are divided by {factors.min():.4g} … {factors.max():.4g}, each by its own",
        lambda c: positions.rotated(
            c, replace(own, factors=tuple(factors)).angles(c.position, len(c.x), dim)
        ), dim // 2,
    )  # fmt: skip


def _frequencies(turns: Turns) -> NDArray[np.float64]:
    """How far each pair is turned from one token to the next: from neighbours, then from tokens ever farther apart."""
    lag, found = 1, np.zeros(turns.shape[1])
    while lag < len(turns):
        products = (turns[lag:] * turns[:-lag].conj()).sum(0)
        found = found + np.angle(products * np.exp(-1j * lag * found)) / lag
        lag *= 2
    return found


_USUAL = Yarn(1)
"""The betas that are meant where a model states none."""


def _unscaled(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """What a model's scaling of RoPE has, left out."""
    own = own_rope(call)
    if own.factors is not None:
        yield _with("frequency factors (rope_freqs) are left out", factors=None)
    if own.yarn is not None:
        yield _with("YaRN is left out", yarn=None, scale=1.0, magnitude=1.0)
        yield _with("YaRN's frequencies are left out, its magnitude is not", yarn=None, scale=1.0)
        yield _with("all frequencies are scaled alike, without YaRN's ramp", yarn=None)
        other = replace(own.yarn, whole_pairs=not own.yarn.whole_pairs)
        how = "is not rounded" if own.yarn.whole_pairs else "is rounded"
        yield _with(f"YaRN's range {how} to whole channel pairs", yarn=other)
        usual = replace(own.yarn, fast=_USUAL.fast, slow=_USUAL.slow)
        if usual != own.yarn:
            stated = f"the model says {own.yarn.fast:.6g} and {own.yarn.slow:.6g}"
            words = (
                f"YaRN's beta_fast and beta_slow are {usual.fast:.6g} and {usual.slow:.6g}, as where a model says none"
            )
            yield _with(f"{words}; {stated}", yarn=usual)
    if own.magnitude != 1:
        yield _with(f"the magnitude {own.magnitude:.6g} is left out", magnitude=1.0)


def _ramps(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Each number of YaRN's ramp, with the others as the model has them."""
    own, yarn = own_rope(call), own_rope(call).yarn
    if yarn is None or found is None:
        return
    names = {"original_context": "original context", "fast": "beta_fast", "slow": "beta_slow"}
    for name, words in names.items():
        value = float(getattr(yarn, name))

        def rope_of(number: float, name: str = name) -> Rope:
            return replace(own, yarn=replace(yarn, **{name: number}))  # type: ignore[arg-type]

        for solved in _fitted(call, found, rope_of, max(value / 100, 1e-3), value * 100):
            if abs(solved / value - 1) > _LEAST_SHARE:
                yield _with(f"YaRN's {words} is {solved:.6g}, the model says {value:.6g}", 1, yarn=rope_of(solved).yarn)


def _added_yarn(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """YaRN of a factor and an original context, in a model without any scaling: both from what each pair turned by."""
    own, dim = own_rope(call), call.model.config.graph.rotated
    if found is None or len(call.x) < _LEAST_TOKENS or (own.yarn, own.factors, own.scale) != (None, None, 1.0):
        return
    turns = _turns(call, found)
    rows = np.arange(call.position, call.position + len(turns))[:, None]
    size = float(np.abs(turns).sum()) or 1.0

    def cost(context: int, scale: float) -> float:
        angles = rows * replace(own, scale=scale, yarn=Yarn(context)).angles(1, 1, dim)
        return 1 - float((turns * np.exp(-1j * angles)).real.sum()) / size

    def scale_of(context: int) -> float:
        at = min(_GRID_OF_SCALES, key=lambda scale: cost(context, scale))
        return nicest(least(lambda scale: cost(context, scale), at / 2, at * 2), lambda scale: cost(context, scale))

    scales = {context: scale_of(context) for context in _CONTEXTS}
    context = min(scales, key=lambda context: cost(context, scales[context]))
    scale = scales[context]
    if cost(context, scale) > 1 - _TURNED or abs(scale - 1) <= _LEAST_SHARE:
        return
    words = f"YaRN of factor {scale:.6g} and original context {context} is applied, the model has none"
    yield _with(words, 2, scale=scale, yarn=Yarn(context))
    yield _with(
        f"{words}, magnitude and all", 2, scale=scale, yarn=Yarn(context), magnitude=1 + 0.1 * float(np.log(scale)),
    )  # fmt: skip


def _layouts(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    ways = "neighbouring channels (2i and 2i + 1)", "halves of a head (i and i + d/2)"
    theirs, own = ways[::-1] if call.model.config.graph.rope_layout is RopeLayout.INTERLEAVED else ways
    yield configured(f"{theirs} are turned together, the model turns {own}", positions.of_other_layout)


def _magnitudes(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """By how much longer queries or keys are than what is turned."""
    own = own_rope(call)
    if found is None:
        return
    before, after = pairs_of(call, call.x), pairs_of(call, found)
    square = float((np.abs(before) ** 2).sum())
    if not square or not np.isfinite(found).all():
        return
    solved = float((np.abs(before) * np.abs(after)).sum()) / square

    def cost(value: float) -> float:
        return float(((np.abs(after) - value * np.abs(before)) ** 2).sum()) / square

    solved = nicest(solved, cost)
    if solved > 0 and abs(solved / own.magnitude - 1) > _LEAST_SHARE:
        yield _with(f"a magnitude of {solved:.6g}, the model says {own.magnitude:.6g}", 1, magnitude=solved)


def _with(words: str, fitted: int = 0, **changes: object) -> Attempt:
    """As a RoPE of other numbers turns."""
    return configured(words, lambda call: positions.of_other_rope(call, **changes), fitted)


def _tables(kind: str) -> Callable[[StageCall], Array]:
    """Cosines and sines that are kept in 16 bits."""

    def turned(call: StageCall) -> Array:
        angles = positions.angles(call)
        cosines, sines = (ROUND[kind](of(angles).astype(np.float32)).astype(np.float64) for of in (np.cos, np.sin))
        return positions.multiplied(call, cosines + 1j * sines)

    return turned


def _f16_angles(call: StageCall) -> Array:
    return positions.rotated(call, round_f16(positions.angles(call).astype(np.float32)).astype(np.float64))


def turns_heads(model: Model, node: Node) -> bool:
    """Whether a node of RoPE turns anything."""
    return model.config.graph.has_rope(node.layer)


def _turns_fused_heads(model: Model, node: Node) -> bool:
    return turns_heads(model, node) and model.config.graph.latent is None


_READ = "read it from the model's metadata (rope.freq_base), for this kind of layer"
_ROPE = (Op.ROPE,)

ROPE_ALTERNATIVES: tuple[Alternative, ...] = (
    plain(
        "RoPE left out", _ROPE, positions.not_turned, "is not turned: RoPE is left out",
        "turn queries and keys alike, before the keys are cached", turns_heads,
    ),
    Alternative("RoPE base", frozenset(_ROPE), _bases, _READ, turns_heads),
    Alternative(
        "RoPE layout", frozenset(_ROPE), _layouts,
        "pair channels as the model's architecture does, or permute the rows of Q and K", turns_heads,
    ),
    Alternative(
        "RoPE positions", frozenset(_ROPE), _shifts,
        "count positions from 0, queries and keys alike, and on from what is cached", turns_heads,
    ),
    Alternative(
        "RoPE positions of tokens", frozenset(_ROPE), _positions,
        "give each token its position in the sequence: on from what is cached, across chunks and padding", turns_heads,
    ),
    plain(
        "RoPE backwards", _ROPE, positions.backwards, "turned backwards: the sign of the sine",
        "first · cos − second · sin, and first · sin + second · cos", turns_heads,
    ),
    plain(
        "RoPE twice", _ROPE, positions.turned_twice, "turned twice",
        "turn once: before the keys are cached, or when they are read, not both", turns_heads,
    ),
    Alternative("RoPE scaling left out", frozenset(_ROPE), _unscaled, "read rope.scaling and rope_freqs", turns_heads),
    Alternative(
        "RoPE scale", frozenset(_ROPE), _scales, "read rope.scaling.factor, and scale where the model says so",
        turns_heads,
    ),
    Alternative(
        "RoPE width", frozenset(_ROPE), _widths, "read rope.dimension_count: some models turn a part of each head",
        turns_heads,
    ),
    plain(
        "RoPE angles in bfloat16", _ROPE, positions.bf16_angles, "angles are computed in bfloat16",
        "compute angles in float32: position times frequency needs its digits", turns_heads,
    ),
    plain(
        "RoPE angles in float16", _ROPE, _f16_angles, "angles are computed in float16",
        "compute angles in float32: position times frequency needs its digits", turns_heads,
    ),
    *(
        plain(
            f"RoPE tables in {name}", _ROPE, _tables(kind), f"cosines and sines are kept in {name}",
            "keep the tables of cosines and sines in float32, or state that 16 bits are meant", turns_heads,
            may_be_meant=True,
        )
        for kind, name in (("f16", "float16"), ("bf16", "bfloat16"))
    ),
    Alternative(
        "YaRN ramp", frozenset(_ROPE), _ramps, "read rope.scaling of the model's metadata", turns_heads
    ),
    Alternative(
        "YaRN added", frozenset(_ROPE), _added_yarn, "scale no frequencies where the metadata has no rope.scaling",
        turns_heads,
    ),
    Alternative(
        "RoPE magnitude", frozenset(_ROPE), _magnitudes,
        "multiply by the attention factor of the model's scaling, by none where it has none", turns_heads,
    ),
    Alternative("RoPE frequencies", frozenset(_ROPE), _factors, "read rope.scaling and rope_freqs", turns_heads),
    plain(
        "V read for K", ("k_post_rope",), attention.values_as_keys, "made of the values: V is read for K",
        "check where the fused product is split", _turns_fused_heads,
    ),
)  # fmt: skip
