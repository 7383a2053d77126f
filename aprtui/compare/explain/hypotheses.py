"""What the error at a blamed stage looks like: signatures of common bugs, each held against the values.

T = tokens, W = width; maps are laid out as rows of queries. Signatures are listed in the order in which they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.comparison import Hypothesis, Support
from aprtui.compare.wording import counted
from aprtui.trace.graph.config import GraphConfig, RopeLayout
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Stage
from aprtui.trace.rank_parts import RankParts

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

MOST_VALUES = 1_000_000
"""The most values that are looked at: of larger stages, evenly spaced tokens. About ten float64 copies are alive."""
SAME = 0.02
"""Two tensors count as the same where this much relative L2 is between them, the error being far larger."""
_MOST = 0.9
"""Share of the channels that a signature of all channels must show in."""
_MOST_HEADS = 6
"""Heads of which all orders are tried; of more, each found head is matched to the nearest expected one."""
_BLOCKS = (256, 32)
_SIXTEEN_BITS = {"bfloat16": 0xFFFF, "float16": 0x1FFF}
"""Mantissa bits that a type leaves zero; what leaves more of them zero comes first."""


@dataclass(frozen=True)
class StageEvidence:
    """The values of the blamed stage: what it should have been, what was found, and what else is known.

    `expected` and `found` are `[T, W]`, or `[heads, T, T]` of which key ≤ query counts. `bound` is what a token's
    relative error may be. `siblings` are other tensors of the same shape by what they are: inputs of the stage, the
    product beside it. `known` are named vectors `[W]`, as its bias. `worst` are tokens that must be looked at. `ranks`
    says which parts are from which ranks. `sees_places` is whether a stage that may be to blame sees positions or other
    tokens.
    """

    stage: Stage
    config: GraphConfig | None
    expected: Array
    found: Array
    bound: float
    siblings: Mapping[str, Array] = field(default_factory=dict)
    known: Mapping[str, Array] = field(default_factory=dict)
    worst: tuple[int, ...] = ()
    ranks: RankParts | None = None
    sees_places: bool = True

    @cached_property
    def rows(self) -> NDArray[np.intp]:
        """The tokens that are looked at: all, or evenly spaced ones with the first and the last."""
        tokens = self.expected.shape[-2]
        width = max(1, self.expected.size // max(1, tokens))
        count = max(2, min(tokens, MOST_VALUES // width))
        spaced = np.linspace(0, tokens - 1, min(tokens, count)).astype(np.intp)
        return np.unique(np.concatenate([spaced, np.array(self.worst, np.intp)]))

    def chosen(self, values: Array) -> Array:
        """The `rows` of a tensor, `[rows, W]`; of maps `[rows, heads * T]`, zero where key > query."""
        if values.ndim == 3:
            visible = np.arange(values.shape[2])[None, :] <= self.rows[:, None]
            maps = np.where(visible[:, None, :], values[:, self.rows].swapaxes(0, 1), np.float32(0))
            return np.asarray(maps.reshape(len(self.rows), -1), np.float32)
        return np.asarray(values[self.rows], np.float32)

    def matrix(self, values: Array) -> Wide:
        """The `rows` in float64, 0 where either side is NaN or Inf: that is no difference of size."""
        wide = self.chosen(values).astype(np.float64)
        return np.where(self.finite & np.isfinite(wide), wide, 0.0)

    @cached_property
    def finite(self) -> NDArray[np.bool_]:
        """Which of the values looked at are finite on both sides."""
        return np.isfinite(self.chosen(self.expected)) & np.isfinite(self.chosen(self.found))

    @cached_property
    def a(self) -> Wide:
        """What was expected, as a matrix."""
        return self.matrix(self.expected)

    @cached_property
    def b(self) -> Wide:
        """What was found, as a matrix."""
        return self.matrix(self.found)

    @cached_property
    def d(self) -> Wide:
        return self.b - self.a

    @cached_property
    def error(self) -> float:
        """Relative L2 of the whole."""
        return relative(self.b, self.a)

    @cached_property
    def token_errors(self) -> Wide:
        """Relative L2 of each row."""
        norms = np.linalg.norm(self.a, axis=1)
        floor = 1e-3 * np.sqrt(np.mean(norms**2)) if norms.size else 0.0
        divisor = np.maximum(norms, floor or 1.0)
        return np.asarray(np.linalg.norm(self.d, axis=1) / divisor)

    @property
    def wrong_tokens(self) -> NDArray[np.bool_]:
        return np.asarray(self.token_errors > self.bound)

    def heads(self, values: Wide) -> Wide | None:
        """`[rows, heads, channels]`; None where the stage has no heads."""
        if self.expected.ndim == 3:
            return values.reshape(len(values), self.expected.shape[0], -1)
        width, dim = self.stage.width, self.stage.head_size
        return None if not dim or width % dim or width == dim else values.reshape(len(values), -1, dim)


def relative(b: Wide, a: Wide) -> float:
    """|b − a| / |a|; 0 where both are zero, inf where only a is."""
    distance, norm = float(np.linalg.norm(b - a)), float(np.linalg.norm(a))
    return 0.0 if distance == 0 else distance / norm if norm else float("inf")


class SignatureOutcome(NamedTuple):
    """What the values say of a signature, and the numbers that say so.

    `looks_like` says in a few words what was found, with its number; the signature's name says it where it is empty.
    """

    support: Support
    evidence: str
    looks_like: str = ""


Test = Callable[[StageEvidence], SignatureOutcome]

SIGNATURES: list[Callable[[StageEvidence], Hypothesis]] = []
"""All signatures, in the order in which they are listed."""
OF_RANKS: list[Callable[[StageEvidence], Hypothesis]] = []
"""Those of captures that were put together of several ranks, listed before the others."""


def hypothesise(evidence: StageEvidence) -> tuple[Hypothesis, ...]:
    """Every signature held against the evidence, those supported first. None of them changes a verdict."""
    order = tuple(Support)
    found = [test(evidence) for test in (*(OF_RANKS if evidence.ranks is not None else ()), *SIGNATURES)]
    return tuple(sorted(found, key=lambda hypothesis: order.index(hypothesis.support)))


def signature(
    name: str, cause: str, among: list[Callable[[StageEvidence], Hypothesis]] = SIGNATURES
) -> Callable[[Test], Test]:
    """Lists a test of the values as the signature `name`; `cause` is what usually causes it."""

    def listed(test: Test) -> Test:
        def hypothesis(evidence: StageEvidence) -> Hypothesis:
            support, text, looks_like = test(evidence)
            return Hypothesis(name, support, text, cause, looks_like or name)

        among.append(hypothesis)
        return test

    return listed


def supported_if(holds: bool) -> Support:
    return Support.SUPPORTED if holds else Support.REFUTED


@signature("NaN or Inf", "a division by zero, an overflow, or memory that was never written")
def not_finite(evidence: StageEvidence) -> SignatureOutcome:
    a, b = evidence.chosen(evidence.expected), evidence.chosen(evidence.found)
    found = ~np.isfinite(b) & np.isfinite(a)
    count = int(found.sum())
    text = f"{count} values"
    looks_like = ""
    if count:
        counts = {"NaN": int(np.isnan(b[found]).sum()), "Inf": int(np.isinf(b[found]).sum())}
        text += f": {', '.join(f'{number} {kind}' for kind, number in counts.items())}"
        looks_like = " and ".join(f"{number} {kind}" for kind, number in counts.items() if number)
        places = np.flatnonzero(found.any(0))
        if evidence.found.ndim == 2:
            text += f", in {places.size} channels: {', '.join(map(str, places[:6]))}"
        beyond, inside = np.abs(a[found]).min(), np.abs(a[evidence.finite])
        if inside.size and beyond > inside.max():
            text += f"; all where expected is beyond {inside.max():.4g}: an overflow"
    return SignatureOutcome(supported_if(count > 0), text, looks_like)


@signature("the part of one rank", "a rank with wrong weights, or one that missed what the others were sent", OF_RANKS)
def part_of_one_rank(evidence: StageEvidence) -> SignatureOutcome:
    assert evidence.ranks is not None
    errors = {
        ranks: relative(evidence.b[chosen], evidence.a[chosen])
        for ranks, chosen in _chosen_by_rank(evidence, evidence.ranks).items()
        if chosen[0].size and chosen[1].size
    }
    wrong = [ranks for ranks, error in errors.items() if error > evidence.bound]
    text = ", ".join(f"rank {_ranks_text(ranks)} rel_l2 {error:.3g}" for ranks, error in list(errors.items())[:8])
    if len(wrong) != 1 or len(errors) < 2:
        return SignatureOutcome(Support.REFUTED, text)
    return SignatureOutcome(Support.SUPPORTED, text, f"the part of rank {_ranks_text(wrong[0])} alone")


def _ranks_text(ranks: tuple[int, ...]) -> str:
    return " and ".join(map(str, ranks[:4])) + (" …" if len(ranks) > 4 else "")


def _chosen_by_rank(evidence: StageEvidence, parts: RankParts) -> dict[tuple[int, ...], tuple[Any, ...]]:
    """For each rank an index of the rows and columns, as of `numpy.ix_`, that are its."""
    rows, columns = np.arange(len(evidence.rows)), np.arange(evidence.a.shape[1])
    found: dict[tuple[int, ...], tuple[Any, ...]] = {}
    for ranks, runs in parts.parts.items():
        own = np.concatenate([np.arange(first, end) for first, end in runs]) if runs else np.empty(0, np.intp)
        if parts.axis:
            found[ranks] = np.ix_(rows, own[own < columns.size])
        elif evidence.expected.ndim == 3:
            each = evidence.expected.shape[2]
            found[ranks] = np.ix_(rows, columns[np.isin(columns // each, own)])
        else:
            found[ranks] = np.ix_(rows[np.isin(evidence.rows, own)], columns)
    return found


@signature("another tensor", "swapped weights, an op left out, a residual not added, a wrong buffer")
def another_tensor(evidence: StageEvidence) -> SignatureOutcome:
    if not evidence.siblings:
        return SignatureOutcome(Support.UNTESTED, "no other tensor of this shape is at hand")
    errors = {label: relative(evidence.b, evidence.matrix(other)) for label, other in evidence.siblings.items()}
    label = min(errors, key=lambda key: errors[key])
    text = f"nearest is {label}, to rel_l2 {errors[label]:.3g}"
    holds = errors[label] < SAME and errors[label] < 0.1 * evidence.error
    return SignatureOutcome(supported_if(holds), text, f"the values of {label}")


@signature("a constant factor", "a scale that is missing or applied twice")
def scaled(evidence: StageEvidence) -> SignatureOutcome:
    norm = float((evidence.a**2).sum())
    if not norm:
        return SignatureOutcome(Support.UNTESTED, "all expected values are zero")
    factor = float((evidence.a * evidence.b).sum()) / norm
    rest = relative(evidence.b, factor * evidence.a) if factor else float("inf")
    text = f"found is {factor:.6g} × expected, leaving {rest:.3g} of {evidence.error:.3g}"
    return SignatureOutcome(supported_if(rest < 0.1 * evidence.error), text, f"× {factor:.6g}")


@signature("a factor for each token", "a normalisation: its epsilon, or the mean that it divides by")
def scaled_per_token(evidence: StageEvidence) -> SignatureOutcome:
    norms = (evidence.a**2).sum(1)
    if evidence.expected.ndim == 3 or not norms.all() or len(norms) < 3:
        return SignatureOutcome(Support.UNTESTED, "needs three tokens other than zero, and no maps")
    factors = (evidence.a * evidence.b).sum(1) / norms
    rest = relative(evidence.b, factors[:, None] * evidence.a)
    spread = float(np.std(factors))
    span = f"{factors.min():.6g} … {factors.max():.6g}"
    text = f"factors {span}, leaving {rest:.3g} of {evidence.error:.3g}"
    holds = rest < 0.1 * evidence.error and spread > 0.1 * evidence.error
    return SignatureOutcome(supported_if(holds), text, f"a factor for each token, {span}")


@signature("a factor for each channel", "the weight of a normalisation: missing, applied twice, another layer's")
def scaled_per_channel(evidence: StageEvidence) -> SignatureOutcome:
    """Found is expected times a factor of each channel's own, in most channels."""
    norms = (evidence.a**2).sum(0)
    if evidence.expected.ndim == 3 or len(evidence.rows) < 4 or not norms.all():
        return SignatureOutcome(Support.UNTESTED, "needs four tokens of channels that are not zero, and no maps")
    factors = (evidence.a * evidence.b).sum(0) / norms
    rest = relative(evidence.b, factors * evidence.a)
    moved = float(np.mean(np.abs(factors - 1) > 0.1 * evidence.error))
    span = f"{factors.min():.4g} … {factors.max():.4g}"
    text = f"factors {span}, leaving {rest:.3g} of {evidence.error:.3g}"
    spread = float(np.std(factors)) > 0.1 * evidence.error
    holds = rest < 0.1 * evidence.error and spread and moved > _MOST
    return SignatureOutcome(supported_if(holds), text, f"a factor for each channel, {span}")


@signature("one vector at all tokens", "a bias that is dropped, doubled, or another layer's")
def same_vector(evidence: StageEvidence) -> SignatureOutcome:
    if evidence.expected.ndim == 3 or len(evidence.rows) < 3 or not evidence.error:
        return SignatureOutcome(Support.UNTESTED, "needs an error at three tokens of a stage without maps")
    mean = evidence.d.mean(0)
    rest = relative(evidence.d, np.broadcast_to(mean, evidence.d.shape))
    text = f"tokens differ from their mean error by {rest:.3g}"
    looks_like = ""
    for label, vector in evidence.known.items():
        for sign, word in ((-1, "dropped"), (1, "doubled")):
            if rest < 0.1 and relative(mean, sign * vector.astype(np.float64)) < 0.1:
                looks_like = f"the {label}, {word}"
                text += f"; it is {looks_like}"
    return SignatureOutcome(supported_if(rest < 0.1), text, looks_like)


@signature("stale token", "a buffer that is read before the new value is written")
def stale_token(evidence: StageEvidence) -> SignatureOutcome:
    """Each token holds what belongs to the one before."""
    if len(evidence.rows) < 3 or evidence.expected.ndim == 3 or np.any(np.diff(evidence.rows) != 1):
        return SignatureOutcome(Support.UNTESTED, "needs three neighbouring tokens of a stage without maps")
    error = relative(evidence.b[1:], evidence.a[:-1])
    text = f"found is the token before's to rel_l2 {error:.3g}"
    holds = error < SAME and error < 0.1 * evidence.error
    return SignatureOutcome(supported_if(holds), text, "the values of the token before")


@signature("from one token on", "a window, a chunk of the prompt, or K/V rows in decoding")
def from_one_on(evidence: StageEvidence) -> SignatureOutcome:
    """Several tokens right, all behind them wrong, of which there are several."""
    wrong = evidence.wrong_tokens
    if wrong.size < 4 or np.any(np.diff(evidence.rows) != 1):
        return SignatureOutcome(Support.UNTESTED, "needs four neighbouring tokens at least")
    first, last = int(np.argmax(wrong)), int(evidence.rows[-1])
    if not wrong[first:].all() or not 2 <= first <= wrong.size - 2:
        return SignatureOutcome(
            Support.REFUTED, f"{int(wrong.sum())} of {wrong.size} tokens are wrong, not a few behind"
        )
    right, begins = int(evidence.rows[first - 1]), int(evidence.rows[first])
    text = f"tokens 0–{right} right, {begins}–{last} wrong: as where a window, a chunk or decoding begins"
    return SignatureOutcome(Support.SUPPORTED, text, text)


@signature("positions, mask or K/V cache", "positions, a mask, keys or values of other tokens")
def later_tokens(evidence: StageEvidence) -> SignatureOutcome:
    """Token 0 right, most later ones wrong."""
    if not evidence.sees_places:
        return SignatureOutcome(Support.REFUTED, "no stage that may be to blame sees positions or other tokens")
    wrong = evidence.wrong_tokens
    if wrong.size < 3:
        return SignatureOutcome(Support.UNTESTED, "needs three tokens at least")
    share = float(wrong[1:].mean())
    text = f"token 0 is {'wrong' if wrong[0] else 'right'}, of the later ones {100 * share:.0f} % are wrong"
    looks_like = f"token 0 right and {100 * share:.0f} % of the later ones wrong"
    return SignatureOutcome(supported_if(not wrong[0] and share > 0.5), text, looks_like)


@signature("the last token only", "a path for the last position of its own, or an end that is off by one")
def last_token(evidence: StageEvidence) -> SignatureOutcome:
    wrong = evidence.wrong_tokens
    if wrong.size < 3:
        return SignatureOutcome(Support.UNTESTED, "needs three tokens at least")
    text = f"{int(wrong[:-1].sum())} of the tokens before the last are wrong, the last is {'' if wrong[-1] else 'not '}"
    holds = bool(wrong[-1]) and not wrong[:-1].any()
    return SignatureOutcome(supported_if(holds), text.rstrip(), "the last token alone")


@signature("RoPE angle", "position, base or scaling of RoPE")
def rope(evidence: StageEvidence) -> SignatureOutcome:
    """Pairs of channels keep their norm and are turned."""
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if evidence.stage.op is not Op.ROPE or a is None or b is None or evidence.config is None:
        return SignatureOutcome(Support.UNTESTED, "not a rotated stage, or its heads are not known")
    norms_a, norms_b = _pair_norms(a, evidence.config.rope_layout), _pair_norms(b, evidence.config.rope_layout)
    error = relative(norms_b, norms_a)
    text = f"norms of {evidence.config.rope_layout} pairs agree to {error:.3g}, their values to {evidence.error:.3g}"
    holds = error < SAME and error < 0.1 * evidence.error
    return SignatureOutcome(supported_if(holds), text, "another RoPE angle")


@signature("the other RoPE layout", "channels 2i and 2i + 1 turned together instead of i and i + d/2, or back")
def rope_layout(evidence: StageEvidence) -> SignatureOutcome:
    """Pairs of the other RoPE layout were turned: norms over both kinds of pairs differ, those of heads agree."""
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if evidence.stage.op is not Op.ROPE or a is None or b is None or evidence.config is None:
        return SignatureOutcome(Support.UNTESTED, "not a rotated stage, or its heads are not known")
    heads = relative(np.linalg.norm(b, axis=-1), np.linalg.norm(a, axis=-1))
    own = relative(_pair_norms(b, evidence.config.rope_layout), _pair_norms(a, evidence.config.rope_layout))
    text = f"norms of heads agree to {heads:.3g}, those of {evidence.config.rope_layout} pairs to {own:.3g}"
    small = heads < SAME and heads < 0.1 * evidence.error
    return SignatureOutcome(supported_if(small and own > 0.1 * evidence.error), text)


@signature("softmax without sinks", "attention without its sinks, or sinks that were not loaded")
def without_sinks(evidence: StageEvidence) -> SignatureOutcome:
    """Rows of probabilities add up to 1 where they should add up to less, in the same proportions."""
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if evidence.stage.op is not Op.SOFTMAX or a is None or b is None:
        return SignatureOutcome(Support.UNTESTED, "not a softmax of scores")
    expected, found = a.sum(-1), b.sum(-1)
    if not (expected > 0).all() or not (expected < 1 - SAME).any():
        return SignatureOutcome(Support.UNTESTED, "rows are expected to add up to 1: there are no sinks")
    rest = relative(b, a / expected[..., None])
    text = f"rows add up to {found.min():.4g} … {found.max():.4g}, expected {expected.min():.4g} … {expected.max():.4g}"
    holds = rest < SAME and rest < 0.1 * evidence.error
    return SignatureOutcome(supported_if(holds), f"{text}; expected over its sums leaves {rest:.3g}")


def _pair_norms(values: Wide, layout: RopeLayout) -> Wide:
    half = values.shape[-1] // 2
    if layout is RopeLayout.INTERLEAVED:
        return np.hypot(values[..., 0::2], values[..., 1::2])
    return np.hypot(values[..., :half], values[..., half:])


@signature("heads in another order", "the mapping of heads or of K/V groups")
def heads_permuted(evidence: StageEvidence) -> SignatureOutcome:
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if a is None or b is None:
        return SignatureOutcome(Support.UNTESTED, "the stage has no heads, or their number is not known")
    order = _order_of_heads(a, b)
    error = relative(b, a[:, order])
    text = f"found heads are the expected {list(map(int, order))[:12]} to rel_l2 {error:.3g}"
    holds = bool(np.any(order != np.arange(len(order)))) and error < SAME and error < 0.1 * evidence.error
    return SignatureOutcome(supported_if(holds), text, f"heads in the order {list(map(int, order))[:12]}")


def _order_of_heads(a: Wide, b: Wide) -> Wide:
    heads = a.shape[1]
    distance = np.array([[np.linalg.norm(b[:, i] - a[:, j]) for j in range(heads)] for i in range(heads)])
    if heads > _MOST_HEADS:
        return np.asarray(distance.argmin(1))
    best = min(permutations(range(heads)), key=lambda order: sum(distance[i, j] ** 2 for i, j in enumerate(order)))
    return np.array(best)


@signature("one head", "the mapping of heads, or one head's part of a weight or buffer")
def one_head(evidence: StageEvidence) -> SignatureOutcome:
    """One head wrong, or the query heads of one K/V head, the others right."""
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if a is None or b is None:
        return SignatureOutcome(Support.UNTESTED, "the stage has no heads, or their number is not known")
    errors = np.array([relative(b[:, head], a[:, head]) for head in range(a.shape[1])])
    wrong = np.flatnonzero(errors > evidence.bound)
    text = f"beyond the bound: head {', '.join(map(str, wrong[:8]))}" if len(wrong) else "no head is beyond the bound"
    text += f" (of {len(errors)})"
    group = evidence.config.heads // evidence.config.kv_heads if evidence.config else 1
    one_group = len(errors) > group == len(wrong) and int(wrong[0]) % group == 0 and wrong[-1] - wrong[0] == group - 1
    looks_like = f"head {int(wrong[0])} alone" if len(wrong) else ""
    if one_group and group > 1:
        text += f": those of K/V head {int(wrong[0]) // group}"
        looks_like = f"the heads of K/V head {int(wrong[0]) // group} alone"
    return SignatureOutcome(supported_if(len(wrong) == 1 or bool(one_group)), text, looks_like)


@signature("every k-th channel", "interleaving, or a stride")
def every_kth(evidence: StageEvidence) -> SignatureOutcome:
    wrong = _wrong_channels(evidence)
    if evidence.expected.ndim == 3 or not wrong.any():
        return SignatureOutcome(Support.UNTESTED, "no channel of its own is wrong")
    for k in (2, 3, 4, 8, 16, 32, 64):
        for phase in range(k if len(wrong) >= 4 * k else 0):
            inside = wrong[phase::k]
            if inside.all() and wrong.sum() == inside.size:
                channels = f"channels {phase}, {phase + k}, …"
                return SignatureOutcome(Support.SUPPORTED, f"{channels} and no others", f"{channels} alone")
    return SignatureOutcome(Support.REFUTED, f"{int(wrong.sum())} of {wrong.size} channels, in no such order")


@signature("single output channels", "a row of the weight: one quantisation scale, or a loop that ends too early")
def few_channels(evidence: StageEvidence) -> SignatureOutcome:
    wrong = _wrong_channels(evidence)
    if evidence.expected.ndim == 3:
        return SignatureOutcome(Support.UNTESTED, "maps have no channels")
    places = np.flatnonzero(wrong)
    listed = ", ".join(map(str, places[:6]))
    text = f"{places.size} of {wrong.size} channels are wrong: {listed}"
    looks_like = f"{counted(places.size, 'channel')} alone: {listed}"
    return SignatureOutcome(supported_if(0 < places.size <= max(1, wrong.size // 128)), text, looks_like)


@signature("a block of channels", "a tile of a weight: transposed, not loaded, or its quantisation scales")
def block(evidence: StageEvidence) -> SignatureOutcome:
    """The wrong channels are one run, or whole blocks of 32 or 256."""
    wrong = _wrong_channels(evidence)
    places = np.flatnonzero(wrong)
    if evidence.expected.ndim == 3 or places.size < 4:
        return SignatureOutcome(Support.UNTESTED, "fewer than four channels are wrong")
    first, last = int(places[0]), int(places[-1])
    run = last - first + 1
    whole = next((size for size in _BLOCKS if wrong.size > size and _is_whole_blocks(wrong, size)), None)
    text = f"channels {first} … {last}, {places.size} of {run} in that run"
    if whole:
        text += f": whole blocks of {whole}"
    one_run = places.size >= 0.9 * run and run <= wrong.size // 2
    return SignatureOutcome(supported_if(bool(whole) or one_run), text, f"channels {first} … {last} alone")


def _is_whole_blocks(wrong: Wide, size: int) -> bool:
    blocks = wrong[: wrong.size // size * size].reshape(-1, size).mean(1)
    return bool(((blocks == 0) | (blocks > 0.9)).all() and 0 < (blocks > 0).sum() <= blocks.size / 2)


def _wrong_channels(evidence: StageEvidence) -> Wide:
    """Which channels are beyond the bound over all tokens, held against the rms of a channel."""
    if evidence.expected.ndim == 3:
        return np.zeros(0, np.bool_)
    typical = np.sqrt(np.mean(evidence.a**2)) * np.sqrt(len(evidence.a)) or 1.0
    return np.asarray(np.linalg.norm(evidence.d, axis=0) / typical > evidence.bound)


@signature("zeros", "memory that was never written, or a loop that ends early")
def zeros(evidence: StageEvidence) -> SignatureOutcome:
    lost = (evidence.b == 0) & (evidence.a != 0)
    share = float(lost.mean()) if lost.size else 0.0
    left = relative(evidence.b[~lost], evidence.a[~lost])
    text = f"{100 * share:.3g} % of the values are zero and should not be; the others are off by {left:.3g}"
    holds = bool(lost.any()) and left < 0.1 * evidence.error
    return SignatureOutcome(supported_if(holds), text, f"{100 * share:.3g} % zeros")


@signature("16-bit values", "a buffer or accumulator of 16 bits")
def sixteen_bits(evidence: StageEvidence) -> SignatureOutcome:
    """Found holds values of a 16-bit type, expected does not."""
    for kind, mask in _SIXTEEN_BITS.items():
        sides = (evidence.chosen(evidence.found), evidence.chosen(evidence.expected))
        of_found, of_expected = (_share_without(values, mask) for values in sides)
        if of_found == 1 and of_expected < 0.5:
            return SignatureOutcome(Support.SUPPORTED, f"every value found is a {kind}", f"{kind} values")
    return SignatureOutcome(Support.REFUTED, "the values have the bits of float32")


def _share_without(values: np.ndarray, mask: int) -> float:
    """Share of the values other than 0 whose bits `mask` are all 0."""
    some = np.ascontiguousarray(values[(values != 0) & np.isfinite(values)])
    return float(np.mean((some.view(np.uint32) & np.uint32(mask)) == 0)) if some.size else 0.0


_MOST_NOISE = 0.25
"""Of any token: what the roundings of engines in use make of logits, at most, twice over."""


@signature("noise", "arithmetic (rounding, order of sums), other weights, or a race")
def noise(evidence: StageEvidence) -> SignatureOutcome:
    """The error is spread over all tokens and channels, goes along with nothing, and is no larger at any token than
    rounding and 4-bit weights explain."""
    norm_a, norm_d = float(np.linalg.norm(evidence.a)), float(np.linalg.norm(evidence.d))
    if not norm_a or not norm_d or evidence.d.size < 64:
        return SignatureOutcome(Support.UNTESTED, "needs an error in 64 values at least")
    along = abs(float((evidence.a * evidence.d).sum())) / norm_a / norm_d
    squares = np.sort(evidence.d.reshape(-1) ** 2)
    tokens = np.linalg.norm(evidence.d, axis=1)
    even = float(tokens.min() / tokens.max()) if tokens.size else 0.0
    top = float(squares[-max(1, squares.size // 100) :].sum() / squares.sum())
    common = float(np.linalg.norm(evidence.d.mean(0))) * np.sqrt(len(evidence.d)) / norm_d
    common = common if len(evidence.d) > 3 else 0.0
    text = f"along expected {along:.2g}, {100 * top:.0f} % of it in 1 % of the values, common to tokens {common:.2g}"
    worst = float((tokens / np.maximum(np.linalg.norm(evidence.a, axis=1), 1e-30)).max(initial=0))
    spread = top < 0.3 and even > 0.05 and worst <= _MOST_NOISE
    return SignatureOutcome(supported_if(spread and along < 0.15 and common < 0.75), text)
