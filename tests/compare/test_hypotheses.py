"""Signatures of bugs: each is recognised in its own case, and claims no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.comparison import Support
from aprtui.compare.explain.hypotheses import SIGNATURES, StageEvidence, hypothesise
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage_graph import graph_for

CONFIG = GraphConfig("qwen2", 3, 256, 8, 4, 32, 512, 40, qkv_bias=True)
GRAPH = graph_for(CONFIG)
T, BOUND = 12, 1e-3

Values = NDArray[np.float32]


def random(stage: str, seed: int = 0) -> Values:
    return np.random.default_rng(seed).standard_normal(GRAPH[stage].shape(T)).astype(np.float32)


def supported(stage: str, found: Values, **known: Any) -> set[str]:
    evidence = StageEvidence(GRAPH[stage], CONFIG, random(stage), found, BOUND, **known)
    result = hypothesise(evidence)
    assert len(result) == len(SIGNATURES)
    return {entry.name for entry in result if entry.support is Support.SUPPORTED}


def edited(change: Callable[[Values], object], stage: str = "ffn_up") -> Values:
    values = random(stage)
    change(values)
    return values


def turned(values: Values, step: float) -> Values:
    pairs = values.reshape(T, -1, 2, CONFIG.head_dim // 2).astype(np.float64)
    angles = step * np.arange(T)[:, None, None]
    first = pairs[:, :, 0] * np.cos(angles) - pairs[:, :, 1] * np.sin(angles)
    second = pairs[:, :, 0] * np.sin(angles) + pairs[:, :, 1] * np.cos(angles)
    return np.stack([first, second], axis=2).reshape(values.shape).astype(np.float32)


def only(index: Any, factor: float) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        values[index] *= factor

    return change


def zero(index: Any) -> Callable[[Values], None]:
    return only(index, 0.0)


def swap_heads(values: Values) -> None:
    heads = values.reshape(T, -1, CONFIG.head_dim)
    heads[:, [1, 4]] = heads[:, [4, 1]]


LATER = "positions, mask or K/V cache"
CASES: dict[str, tuple[str, Callable[[], Values], set[str]]] = {
    "twice as large": ("ffn_up", lambda: 2 * random("ffn_up"), {"a constant factor"}),
    "a factor a token": (
        "ffn_norm", lambda: edited(lambda v: v.__imul__(np.linspace(1.1, 1.9, T)[:, None]), "ffn_norm"),
        {"a factor for each token"},
    ),
    "one vector more": ("ffn_out", lambda: random("ffn_out") + random("ffn_out", 7)[0], {"one vector at all tokens"}),
    "the token before": (
        "ffn_out", lambda: np.concatenate([random("ffn_out")[:1], random("ffn_out")[:-1]]), {"stale token", LATER},
    ),
    "later tokens": (
        "ffn_out", lambda: np.concatenate([random("ffn_out")[:1], random("ffn_out", 3)[1:]]), {LATER},
    ),
    "the last token": (
        "ffn_out", lambda: np.concatenate([random("ffn_out")[:-1], random("ffn_out", 8)[-1:]]), {"the last token only"},
    ),
    "decoding": (
        "ffn_out", lambda: np.concatenate([random("ffn_out")[:4], random("ffn_out", 3)[4:]]),
        {"from one token on", LATER},
    ),
    "turned": ("q_post_rope", lambda: turned(random("q_post_rope"), 0.3), {"RoPE angle", LATER}),
    "heads moved": (
        # Two heads of 32 channels: whole blocks of 32 as well.
        "attention", lambda: edited(swap_heads, "attention"), {"heads in another order", "a block of channels"},
    ),
    "one head wrong": (
        # Of one head all channels are wrong: a whole block of 32 as well.
        "attention", lambda: edited(only(np.s_[:, 32:64], 1.7), "attention"), {"one head", "a block of channels"},
    ),
    "the heads of one K/V head wrong": (
        "attention", lambda: edited(only(np.s_[:, 64:128], 1.7), "attention"), {"one head", "a block of channels"},
    ),
    "a tile as wide as a head": (
        # Of a stage that is as wide as all queries, and has no heads.
        "attn_out", lambda: edited(only(np.s_[:, 32:64], 1.7), "attn_out"), {"a block of channels"},
    ),
    "a factor a channel": (
        "ffn_norm", lambda: edited(lambda v: v.__imul__(np.linspace(1.2, 1.9, v.shape[1])), "ffn_norm"),
        {"a factor for each channel"},
    ),
    "every fourth channel": ("ffn_up", lambda: edited(only(np.s_[:, 1::4], -1)), {"every k-th channel"}),
    "one channel": ("ffn_up", lambda: edited(only(np.s_[:, 77], 1.5)), {"single output channels"}),
    "a block of channels": ("ffn_up", lambda: edited(only(np.s_[:, 100:150], -2)), {"a block of channels"}),
    "a quantisation block": ("ffn_up", lambda: edited(only(np.s_[:, 256:512], 1.3)), {"a block of channels"}),
    "zeros": ("ffn_up", lambda: edited(zero(np.s_[3:6, 10:300])), {"zeros"}),
    "float16": ("ffn_up", lambda: random("ffn_up").astype(np.float16).astype(np.float32), {"16-bit values", "noise"}),
    "noise": ("ffn_up", lambda: random("ffn_up") + 0.05 * random("ffn_up", 5), {"noise"}),
    "a NaN": ("ffn_up", lambda: edited(only((4, 9), np.nan)), {"NaN or Inf"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_signature_is_recognised_and_no_other_claimed(name: str) -> None:
    stage, found, names = CASES[name]
    assert supported(stage, np.asarray(found(), np.float32)) == names


@pytest.mark.parametrize(("mask", "kind"), [(0xFFFF0000, "bfloat16"), (0xFFFFE000, "float16")])
def test_the_16_bit_type_is_named(mask: int, kind: str) -> None:
    found = (random("ffn_up").view(np.uint32) & np.uint32(mask)).view(np.float32)
    evidence = StageEvidence(GRAPH["ffn_up"], CONFIG, random("ffn_up"), found, BOUND)
    entry = next(entry for entry in hypothesise(evidence) if entry.name == "16-bit values")
    assert entry.evidence == f"every value found is a {kind}"


def test_another_tensor_is_named() -> None:
    gate = random("ffn_gate", 9)
    evidence = StageEvidence(GRAPH["ffn_up"], CONFIG, random("ffn_up"), gate, BOUND, {"layer 1 ffn_gate": gate})
    first = hypothesise(evidence)[0]
    assert (first.name, first.support) == ("another tensor", Support.SUPPORTED)
    assert "layer 1 ffn_gate" in first.evidence


@pytest.mark.parametrize(("sign", "word"), [(-1, "dropped"), (1, "doubled")])
def test_a_known_bias_is_told_to_be_dropped_or_doubled(sign: int, word: str) -> None:
    bias = random("qkv_bias", 3)[0]
    found = random("qkv_bias") + sign * bias
    evidence = StageEvidence(GRAPH["qkv_bias"], CONFIG, random("qkv_bias"), found, BOUND, known={"bias": bias})
    entry = next(entry for entry in hypothesise(evidence) if entry.name == "one vector at all tokens")
    assert entry.support is Support.SUPPORTED
    assert f"it is the bias, {word}" in entry.evidence


@pytest.mark.parametrize(("share", "holds"), [(0.0, True), (0.1, False)])
def test_a_softmax_without_its_sinks_is_recognised(share: float, holds: bool) -> None:
    """`share` is what sinks take of each row that was found."""
    powers = np.tril(np.exp(random("attn_softmax")))
    sums = powers.sum(-1, keepdims=True)
    taken = np.linspace(0.2, 0.6, CONFIG.heads)[:, None, None]
    expected, found = (np.asarray(powers / sums * kept, np.float32) for kept in (1 - taken, 1 - share))
    evidence = StageEvidence(GRAPH["attn_softmax"], CONFIG, expected, found, BOUND)
    entry = next(entry for entry in hypothesise(evidence) if entry.name == "softmax without sinks")
    assert entry.support is (Support.SUPPORTED if holds else Support.REFUTED)
    plain = StageEvidence(GRAPH["attn_softmax"], CONFIG, np.asarray(powers / sums, np.float32), found, BOUND)
    entry = next(entry for entry in hypothesise(plain) if entry.name == "softmax without sinks")
    assert entry.support is Support.UNTESTED


def test_the_last_bits_are_nothing_but_noise() -> None:
    random_bits = np.random.default_rng(2).uniform(-1e-7, 1e-7, random("ffn_up").shape)
    found = (random("ffn_up") * (1 + random_bits)).astype(np.float32)
    assert supported("ffn_up", found) <= {"noise"}


def test_what_is_missing_is_said_to_be_untested() -> None:
    evidence = StageEvidence(GRAPH["ffn_up"], None, random("ffn_up")[:1], random("ffn_up", 1)[:1], BOUND)
    untested = {entry.name for entry in hypothesise(evidence) if entry.support is Support.UNTESTED}
    assert {"another tensor", "RoPE angle", "one head", "stale token", LATER} <= untested


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_nothing_raises_on_tensors_of_one_value(value: float) -> None:
    for stage in ("ffn_up", "attn_softmax", "q_post_rope"):
        full = np.full(GRAPH[stage].shape(T), value, np.float32)
        for a, b in ((full, random(stage)), (random(stage), full), (full, full)):
            hypothesise(StageEvidence(GRAPH[stage], CONFIG, a, b, BOUND))


def test_attention_maps_are_looked_at_below_the_diagonal() -> None:
    maps = np.tril(np.abs(random("attn_softmax")))
    found = maps + np.triu(np.ones_like(maps), 1)
    evidence = StageEvidence(GRAPH["attn_softmax"], CONFIG, maps, found.astype(np.float32), BOUND)
    assert not any(entry.support is Support.SUPPORTED for entry in hypothesise(evidence))


def test_large_tensors_are_sampled() -> None:
    expected = np.zeros((40, 1_000_000), np.float32)
    evidence = StageEvidence(GRAPH["ffn_up"], CONFIG, expected, expected, BOUND)
    assert len(evidence.rows) <= 4
    assert {0, 39} <= set(evidence.rows.tolist())


def test_positions_are_no_cause_where_no_stage_in_question_sees_them() -> None:
    found = np.concatenate([random("ffn_out")[:1], random("ffn_out", 3)[1:]])
    assert LATER in supported("ffn_out", found) and not supported("ffn_out", found, sees_places=False)
