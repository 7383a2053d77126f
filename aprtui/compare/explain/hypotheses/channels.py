"""Signatures in which channels or heads are wrong: interleaving, RoPE, heads, blocks, single rows of a weight."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from aprtui.compare.explain.hypotheses.evidence import (
    SAME,
    Hypothesis,
    StageEvidence,
    Support,
    Wide,
    relative,
    supported_if,
)
from aprtui.trace.graph import Op, RopeLayout

_MOST_HEADS = 6
"""Heads of which all orders are tried; of more, each found head is matched to the nearest expected one."""
_BLOCKS = (256, 32)


def one_head(evidence: StageEvidence) -> Hypothesis:
    """One head wrong, or the query heads of one K/V head, the others right."""
    name, cause = "one head", "the mapping of heads, or one head's part of a weight or buffer"
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if a is None or b is None:
        return Hypothesis(name, Support.UNTESTED, "the stage has no heads, or their number is not known", cause)
    errors = np.array([relative(b[:, head], a[:, head]) for head in range(a.shape[1])])
    wrong = np.flatnonzero(errors > evidence.bound)
    text = f"heads beyond the bound: {', '.join(map(str, wrong[:8])) or 'none'} of {len(errors)}"
    group = evidence.config.heads // evidence.config.kv_heads if evidence.config else 1
    one_group = len(errors) > group == len(wrong) and int(wrong[0]) % group == 0 and wrong[-1] - wrong[0] == group - 1
    if one_group and group > 1:
        text += f": those of K/V head {int(wrong[0]) // group}"
    return Hypothesis(name, supported_if(len(wrong) == 1 or bool(one_group)), text, cause)


def heads_permuted(evidence: StageEvidence) -> Hypothesis:
    """The right heads in another order."""
    name, cause = "heads in another order", "the mapping of heads or of K/V groups"
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if a is None or b is None:
        return Hypothesis(name, Support.UNTESTED, "the stage has no heads, or their number is not known", cause)
    order = _order_of_heads(a, b)
    error = relative(b, a[:, order])
    text = f"found heads are the expected {list(map(int, order))[:12]} to rel_l2 {error:.3g}"
    moved = bool(np.any(order != np.arange(len(order))))
    return Hypothesis(name, supported_if(moved and error < SAME and error < 0.1 * evidence.error), text, cause)


def _order_of_heads(a: Wide, b: Wide) -> Wide:
    heads = a.shape[1]
    distance = np.array([[np.linalg.norm(b[:, i] - a[:, j]) for j in range(heads)] for i in range(heads)])
    if heads > _MOST_HEADS:
        return np.asarray(distance.argmin(1))
    best = min(permutations(range(heads)), key=lambda order: sum(distance[i, j] ** 2 for i, j in enumerate(order)))
    return np.array(best)


def rope(evidence: StageEvidence) -> Hypothesis:
    """Pairs of channels keep their norm and are turned."""
    name, cause = "RoPE angle", "position, base or scaling of RoPE"
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if evidence.stage.op is not Op.ROPE or a is None or b is None or evidence.config is None:
        return Hypothesis(name, Support.UNTESTED, "not a rotated stage, or its heads are not known", cause)
    norms_a, norms_b = _pair_norms(a, evidence.config.rope_layout), _pair_norms(b, evidence.config.rope_layout)
    error = relative(norms_b, norms_a)
    text = f"norms of {evidence.config.rope_layout} pairs agree to {error:.3g}, their values to {evidence.error:.3g}"
    return Hypothesis(name, supported_if(error < SAME and error < 0.1 * evidence.error), text, cause)


def _pair_norms(values: Wide, layout: RopeLayout) -> Wide:
    half = values.shape[-1] // 2
    if layout is RopeLayout.INTERLEAVED:
        return np.hypot(values[..., 0::2], values[..., 1::2])
    return np.hypot(values[..., :half], values[..., half:])


def rope_layout(evidence: StageEvidence) -> Hypothesis:
    """Pairs of the other RoPE layout were turned: norms over both kinds of pairs differ, those of heads agree."""
    name, cause = "the other RoPE layout", "channels 2i and 2i + 1 turned together instead of i and i + d/2, or back"
    a, b = evidence.heads(evidence.a), evidence.heads(evidence.b)
    if evidence.stage.op is not Op.ROPE or a is None or b is None or evidence.config is None:
        return Hypothesis(name, Support.UNTESTED, "not a rotated stage, or its heads are not known", cause)
    heads = relative(np.linalg.norm(b, axis=-1), np.linalg.norm(a, axis=-1))
    own = relative(_pair_norms(b, evidence.config.rope_layout), _pair_norms(a, evidence.config.rope_layout))
    text = f"norms of heads agree to {heads:.3g}, those of {evidence.config.rope_layout} pairs to {own:.3g}"
    small = heads < SAME and heads < 0.1 * evidence.error
    return Hypothesis(name, supported_if(small and own > 0.1 * evidence.error), text, cause)


def every_kth(evidence: StageEvidence) -> Hypothesis:
    """Every k-th channel wrong, the others right."""
    name, cause = "every k-th channel", "interleaving, or a stride"
    wrong = _wrong_channels(evidence)
    if evidence.expected.ndim == 3 or not wrong.any():
        return Hypothesis(name, Support.UNTESTED, "no channel of its own is wrong", cause)
    for k in (2, 3, 4, 8, 16, 32, 64):
        for phase in range(k if len(wrong) >= 4 * k else 0):
            inside = wrong[phase::k]
            if inside.all() and wrong.sum() == inside.size:
                return Hypothesis(name, Support.SUPPORTED, f"channels {phase}, {phase + k}, … and no others", cause)
    return Hypothesis(name, Support.REFUTED, f"{int(wrong.sum())} of {wrong.size} channels, in no such order", cause)


def few_channels(evidence: StageEvidence) -> Hypothesis:
    """Single output channels wrong at all tokens: rows of a weight."""
    name = "single output channels"
    cause = "a row of the weight: one quantisation scale, or a loop that ends too early"
    wrong = _wrong_channels(evidence)
    if evidence.expected.ndim == 3:
        return Hypothesis(name, Support.UNTESTED, "maps have no channels", cause)
    places = np.flatnonzero(wrong)
    text = f"{places.size} of {wrong.size} channels are wrong: {', '.join(map(str, places[:6]))}"
    return Hypothesis(name, supported_if(0 < places.size <= max(1, wrong.size // 128)), text, cause)


def block(evidence: StageEvidence) -> Hypothesis:
    """The wrong channels are one run, or whole blocks of 32 or 256."""
    name, cause = "a block of channels", "a tile of a weight: transposed, not loaded, or its quantisation scales"
    wrong = _wrong_channels(evidence)
    places = np.flatnonzero(wrong)
    if evidence.expected.ndim == 3 or places.size < 4:
        return Hypothesis(name, Support.UNTESTED, "fewer than four channels are wrong", cause)
    first, last = int(places[0]), int(places[-1])
    run = last - first + 1
    whole = next((size for size in _BLOCKS if wrong.size > size and _is_whole_blocks(wrong, size)), None)
    text = f"channels {first} … {last}, {places.size} of {run} in that run"
    if whole:
        text += f": whole blocks of {whole}"
    one_run = places.size >= 0.9 * run and run <= wrong.size // 2
    return Hypothesis(name, supported_if(bool(whole) or one_run), text, cause)


def _is_whole_blocks(wrong: Wide, size: int) -> bool:
    blocks = wrong[: wrong.size // size * size].reshape(-1, size).mean(1)
    return bool(((blocks == 0) | (blocks > 0.9)).all() and 0 < (blocks > 0).sum() <= blocks.size / 2)


def _wrong_channels(evidence: StageEvidence) -> Wide:
    """Which channels are beyond the bound over all tokens, held against the rms of a channel."""
    if evidence.expected.ndim == 3:
        return np.zeros(0, np.bool_)
    typical = np.sqrt(np.mean(evidence.a**2)) * np.sqrt(len(evidence.a)) or 1.0
    return np.asarray(np.linalg.norm(evidence.d, axis=0) / typical > evidence.bound)
