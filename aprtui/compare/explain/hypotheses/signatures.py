"""Signatures in which channels or heads are wrong: interleaving, RoPE, heads, blocks, single rows of a weight."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from aprtui.compare.comparison import Support
from aprtui.compare.explain.hypotheses.evidence import (
    SAME,
    Outcome,
    StageEvidence,
    Wide,
    relative,
    signature,
    supported_if,
)
from aprtui.trace.graph import Op, RopeLayout

_MOST_HEADS = 6
"""Heads of which all orders are tried; of more, each found head is matched to the nearest expected one."""
_BLOCKS = (256, 32)


@signature("one head", "the mapping of heads, or one head's part of a weight or buffer")
def one_head(evidence: StageEvidence) -> Outcome:
    """One head wrong, or the query heads of one K/V head, the others right."""
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if a is None or b is None:
        return Support.UNTESTED, "the stage has no heads, or their number is not known"
    errors = np.array([relative(b[:, head], a[:, head]) for head in range(a.shape[1])])
    wrong = np.flatnonzero(errors > evidence.bound)
    text = f"heads beyond the bound: {', '.join(map(str, wrong[:8])) or 'none'} of {len(errors)}"
    group = evidence.config.heads // evidence.config.kv_heads if evidence.config else 1
    one_group = len(errors) > group == len(wrong) and int(wrong[0]) % group == 0 and wrong[-1] - wrong[0] == group - 1
    if one_group and group > 1:
        text += f": those of K/V head {int(wrong[0]) // group}"
    return supported_if(len(wrong) == 1 or bool(one_group)), text


@signature("heads in another order", "the mapping of heads or of K/V groups")
def heads_permuted(evidence: StageEvidence) -> Outcome:
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if a is None or b is None:
        return Support.UNTESTED, "the stage has no heads, or their number is not known"
    order = _order_of_heads(a, b)
    error = relative(b, a[:, order])
    text = f"found heads are the expected {list(map(int, order))[:12]} to rel_l2 {error:.3g}"
    moved = bool(np.any(order != np.arange(len(order))))
    return supported_if(moved and error < SAME and error < 0.1 * evidence.error), text


def _order_of_heads(a: Wide, b: Wide) -> Wide:
    heads = a.shape[1]
    distance = np.array([[np.linalg.norm(b[:, i] - a[:, j]) for j in range(heads)] for i in range(heads)])
    if heads > _MOST_HEADS:
        return np.asarray(distance.argmin(1))
    best = min(permutations(range(heads)), key=lambda order: sum(distance[i, j] ** 2 for i, j in enumerate(order)))
    return np.array(best)


@signature("RoPE angle", "position, base or scaling of RoPE")
def rope(evidence: StageEvidence) -> Outcome:
    """Pairs of channels keep their norm and are turned."""
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if evidence.stage.op is not Op.ROPE or a is None or b is None or evidence.config is None:
        return Support.UNTESTED, "not a rotated stage, or its heads are not known"
    norms_a, norms_b = _pair_norms(a, evidence.config.rope_layout), _pair_norms(b, evidence.config.rope_layout)
    error = relative(norms_b, norms_a)
    text = f"norms of {evidence.config.rope_layout} pairs agree to {error:.3g}, their values to {evidence.error:.3g}"
    return supported_if(error < SAME and error < 0.1 * evidence.error), text


def _pair_norms(values: Wide, layout: RopeLayout) -> Wide:
    half = values.shape[-1] // 2
    if layout is RopeLayout.INTERLEAVED:
        return np.hypot(values[..., 0::2], values[..., 1::2])
    return np.hypot(values[..., :half], values[..., half:])


@signature("the other RoPE layout", "channels 2i and 2i + 1 turned together instead of i and i + d/2, or back")
def rope_layout(evidence: StageEvidence) -> Outcome:
    """Pairs of the other RoPE layout were turned: norms over both kinds of pairs differ, those of heads agree."""
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if evidence.stage.op is not Op.ROPE or a is None or b is None or evidence.config is None:
        return Support.UNTESTED, "not a rotated stage, or its heads are not known"
    heads = relative(np.linalg.norm(b, axis=-1), np.linalg.norm(a, axis=-1))
    own = relative(_pair_norms(b, evidence.config.rope_layout), _pair_norms(a, evidence.config.rope_layout))
    text = f"norms of heads agree to {heads:.3g}, those of {evidence.config.rope_layout} pairs to {own:.3g}"
    small = heads < SAME and heads < 0.1 * evidence.error
    return supported_if(small and own > 0.1 * evidence.error), text


@signature("every k-th channel", "interleaving, or a stride")
def every_kth(evidence: StageEvidence) -> Outcome:
    wrong = _wrong_channels(evidence)
    if evidence.expected.ndim == 3 or not wrong.any():
        return Support.UNTESTED, "no channel of its own is wrong"
    for k in (2, 3, 4, 8, 16, 32, 64):
        for phase in range(k if len(wrong) >= 4 * k else 0):
            inside = wrong[phase::k]
            if inside.all() and wrong.sum() == inside.size:
                return Support.SUPPORTED, f"channels {phase}, {phase + k}, … and no others"
    return Support.REFUTED, f"{int(wrong.sum())} of {wrong.size} channels, in no such order"


@signature("single output channels", "a row of the weight: one quantisation scale, or a loop that ends too early")
def few_channels(evidence: StageEvidence) -> Outcome:
    wrong = _wrong_channels(evidence)
    if evidence.expected.ndim == 3:
        return Support.UNTESTED, "maps have no channels"
    places = np.flatnonzero(wrong)
    text = f"{places.size} of {wrong.size} channels are wrong: {', '.join(map(str, places[:6]))}"
    return supported_if(0 < places.size <= max(1, wrong.size // 128)), text


@signature("a block of channels", "a tile of a weight: transposed, not loaded, or its quantisation scales")
def block(evidence: StageEvidence) -> Outcome:
    """The wrong channels are one run, or whole blocks of 32 or 256."""
    wrong = _wrong_channels(evidence)
    places = np.flatnonzero(wrong)
    if evidence.expected.ndim == 3 or places.size < 4:
        return Support.UNTESTED, "fewer than four channels are wrong"
    first, last = int(places[0]), int(places[-1])
    run = last - first + 1
    whole = next((size for size in _BLOCKS if wrong.size > size and _is_whole_blocks(wrong, size)), None)
    text = f"channels {first} … {last}, {places.size} of {run} in that run"
    if whole:
        text += f": whole blocks of {whole}"
    one_run = places.size >= 0.9 * run and run <= wrong.size // 2
    return supported_if(bool(whole) or one_run), text


def _is_whole_blocks(wrong: Wide, size: int) -> bool:
    blocks = wrong[: wrong.size // size * size].reshape(-1, size).mean(1)
    return bool(((blocks == 0) | (blocks > 0.9)).all() and 0 < (blocks > 0).sum() <= blocks.size / 2)


def _wrong_channels(evidence: StageEvidence) -> Wide:
    """Which channels are beyond the bound over all tokens, held against the rms of a channel."""
    if evidence.expected.ndim == 3:
        return np.zeros(0, np.bool_)
    typical = np.sqrt(np.mean(evidence.a**2)) * np.sqrt(len(evidence.a)) or 1.0
    return np.asarray(np.linalg.norm(evidence.d, axis=0) / typical > evidence.bound)
