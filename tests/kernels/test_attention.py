"""Attention of one token and of a prompt against the reference engine's ops, maps included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from aprtui.engine.cuda.launches import attention_kernel, prompt_attention
from aprtui.engine.reference import ops
from aprtui.model.config import ModelConfig, Rope
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.config import GraphConfig
from tests.kernels.cases import NO_Q8, assert_q8_of, q8_out, relative, step
from tests.kernels.emulated import Images, InOut, Out, Struct

pytestmark = pytest.mark.group("emulator")

BOUND = 5e-7
# heads, K/V heads, channels of a head: grouped, one K/V head for more than eight, odd width, the widest
SHAPES = [(4, 2, 64), (10, 1, 32), (2, 2, 80), (7, 1, 128), (2, 1, 192), (2, 1, 256)]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a layer's attention has beside queries, keys and values."""

    window: int = 0
    sinks: bool = False
    scale: float | None = None
    softcap: float = 0.0


KINDS = [Kind(40), Kind(7, sinks=True), Kind(0, True, 0.2), Kind(33, scale=0.3, softcap=2.0), Kind(softcap=1.5)]


class Case:
    """Queries, caches and the reference's answer; positions of the caches that nobody should look at hold NaN."""

    def __init__(
        self, shape: tuple[int, int, int], position: int, tokens: int, half: bool, kind: Kind = Kind()
    ) -> None:  # fmt: skip
        self.heads, self.kv_heads, self.dim = shape
        self.position, self.tokens, self.half = position, tokens, half
        self.total, self.context = position + tokens, position + tokens + 5
        self.map_stride = self.total + 3
        graph = GraphConfig("qwen2", 1, 32, self.heads, self.kv_heads, self.dim, 32, 32)
        config = ModelConfig(graph, self.context, 1e-6, Rope(1e4), attention_scale=kind.scale)
        rng = np.random.default_rng([*shape, position, tokens])
        self.kind, self.scale = kind, config.score_scale
        self.sinks = rng.standard_normal(self.heads, np.float32) * 2 if kind.sinks else None
        self.q = rng.standard_normal((tokens, graph.q_width), np.float32) * 2
        stored = np.float16 if half else np.float32
        k, v = (rng.standard_normal((self.total, graph.kv_width), np.float32).astype(stored) for _ in range(2))
        self.caches = [np.full((self.kv_heads, self.context, self.dim), np.nan, stored) for _ in range(2)]
        for cache, values in zip(self.caches, (k, v), strict=True):
            cache[:, : self.total] = values.reshape(self.total, self.kv_heads, self.dim).transpose(1, 0, 2)
        self.scores = ops.scores(self.q, k.astype(np.float32), config)
        self.capped = ops.softcap(self.scores, kind.softcap) if kind.softcap else self.scores
        logits = None if self.sinks is None else self.sinks.view(np.uint8)[None]
        sinks = None if logits is None else Weight("sinks", WeightType.F32, 1, self.heads, logits)
        self.softmax = ops.softmax(self.capped, kind.window, sinks)
        self.out = ops.attend(self.softmax, v.astype(np.float32), config, kind.window)
        if kind.window:
            self.caches[1][:, : max(0, position + 1 - kind.window)] = np.nan

    def arguments(self, *, taps: bool, q8: Struct = NO_Q8, softmax: bool = True) -> Struct:
        maps = np.full((self.heads, self.tokens, self.map_stride), 77, np.float32)
        wanted = (taps, taps and softmax and self.kind.softcap > 0, taps and softmax)
        return Struct((
            self.q, *self.caches, *(InOut(maps) if tap else None for tap in wanted), Out(self.out.shape), q8,
            self.sinks, self.heads, self.kv_heads, self.dim, self.context, self.map_stride, int(self.half),
            self.kind.window, self.scale, self.kind.softcap,
        ))  # fmt: skip

    def check_maps(self, scores: np.ndarray, *others: np.ndarray) -> None:
        expected_maps = (self.scores, self.capped, self.softmax) if len(others) == 2 else (self.scores, self.softmax)
        for found, expected in zip((scores, *others), expected_maps, strict=True):
            assert relative(found[..., : self.total], expected) <= BOUND
            above = np.arange(self.total)[None, :] > self.position + np.arange(self.tokens)[:, None]
            assert (found[..., : self.total][:, above] == 0).all()
            assert (found[..., self.total :] == 77).all(), "wrote behind the last key"


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("position", "splits"), [(0, 1), (5, 4), (200, 1), (200, 4), (200, 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_token_attends_to_all_before(
    image_of: Images, shape: tuple[int, int, int], position: int, splits: int, half: bool
) -> None:
    require_one_token(image_of, Case(shape, position, 1, half), splits)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("shape", "position", "splits", "half"), [
    ((4, 2, 64), 5, 4, False), ((10, 1, 32), 200, 3, True), ((7, 1, 128), 200, 1, True), ((2, 1, 256), 90, 2, False),
])  # fmt: skip
def test_one_token_has_windows_sinks_softcaps_and_a_scale(
    image_of: Images, shape: tuple[int, int, int], position: int, splits: int, half: bool, kind: Kind
) -> None:
    require_one_token(image_of, Case(shape, position, 1, half, kind), splits)


def require_one_token(image_of: Images, case: Case, splits: int) -> None:
    kernel, at_once = attention_kernel(case.heads // case.kv_heads, case.dim, capped=case.kind.softcap > 0)
    passes = -(-case.heads // case.kv_heads // at_once)
    partial = np.full((case.heads, splits, case.dim + 2), np.nan, np.float32)
    rest = (step(case.position), partial, InOut(np.zeros(case.kv_heads * passes, np.uint32)))
    grid, run = (splits, case.kv_heads, passes), image_of("attend_one").run
    whole_blocks = case.heads // case.kv_heads * case.dim % 32 == 0
    q8 = q8_out(case.out.size) if whole_blocks else NO_Q8
    tapped = case.arguments(taps=True, q8=q8, softmax=False)
    scores, out, *quantised, counters, states = run(kernel, grid, 128, tapped, *rest, Out((case.heads, 2)))
    assert relative(out, case.out) <= BOUND
    if case.kind.window:
        of_scores = Struct((*tapped.members[:6], None, NO_Q8, *tapped.members[8:]))
        blocks = -(-case.map_stride // 128), case.heads
        (before,) = run("scores_before_window", blocks, 128, of_scores, step(case.position))
        seen = min(case.total, case.kind.window)
        assert (before[..., case.total - seen :] == 77).all(), "wrote what the window has"
        scores = np.where(before == 77, scores, before)
    others = [np.full_like(scores, 77)] * (2 if case.kind.softcap else 1)
    maps = np.stack([scores, *others])[None]
    (maps,) = run(
        "softmax_maps", (1, case.heads, 1), 256, InOut(maps), states, step(case.position), case.heads, case.map_stride,
        maps.size, case.kind.window, case.kind.softcap,
    )  # fmt: skip
    case.check_maps(*maps[0])
    assert not counters.any()
    if whole_blocks:
        assert_q8_of(out, *quantised)
    plain = run(kernel, grid, 128, case.arguments(taps=False), *rest, None, orders=1)
    np.testing.assert_array_equal(plain[0], out)


def test_maps_of_exponentials_of_many_layers_are_made_from_their_scores(image_of: Images) -> None:
    layers, heads, total, stride, layer_stride = 3, 2, 2500, 2600, 2 * 2 * 2600 + 40
    random = np.random.default_rng(4)
    maps = np.full((layers, layer_stride), 77, np.float32)
    both = maps[:, : 2 * heads * stride].reshape(layers, 2, heads, stride)
    scores = random.standard_normal((layers, heads, total), np.float32) * 3
    both[:, 0, :, :total] = scores
    largest = scores.max(-1, keepdims=True)
    powers = np.exp(scores - largest)
    sums = powers.sum(-1, keepdims=True)
    states = np.concatenate([largest, sums], -1)
    (found,) = image_of("attend_one").run(
        "softmax_maps", (3, heads, layers), 256, InOut(maps), states, step(total - 1), heads, stride, layer_stride,
        0, 0.0,
    )  # fmt: skip
    both[:, 1, :, :total] = powers / sums
    assert relative(found[found != 77], maps[maps != 77]) <= BOUND
    np.testing.assert_array_equal(found == 77, maps == 77)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("position", "tokens"), [(0, 1), (0, 37), (30, 18)])
@pytest.mark.parametrize("shape", SHAPES)
def test_prompt_attends_causally(
    image_of: Images, shape: tuple[int, int, int], position: int, tokens: int, half: bool
) -> None:
    require_prompt(image_of, Case(shape, position, tokens, half))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(
    ("shape", "position", "tokens", "half"), [((4, 2, 64), 70, 37, True), ((2, 1, 256), 0, 50, False)]
)
def test_a_prompt_has_windows_sinks_softcaps_and_a_scale(
    image_of: Images, shape: tuple[int, int, int], position: int, tokens: int, half: bool, kind: Kind
) -> None:
    require_prompt(image_of, Case(shape, position, tokens, half, kind))


def attended(image_of: Images, case: Case, *, taps: bool, orders: int = 3) -> list[np.ndarray]:
    """The maps that are tapped, and what the attention of a prompt gives."""
    of = prompt_attention(case.dim, half=case.half, capped=case.kind.softcap > 0)
    assert of.shared <= 48 << 10, "any device gives that unasked"
    return image_of("attend_prompt_half" if case.half else "attend_prompt").run(
        of.kernel, (-(-case.tokens // of.queries), case.heads), 128, case.arguments(taps=taps),
        step(case.position, case.tokens), shared=of.shared, orders=orders,
    )  # fmt: skip


def require_prompt(image_of: Images, case: Case) -> None:
    *maps, out = attended(image_of, case, taps=True)
    assert relative(out, case.out) <= BOUND
    case.check_maps(*maps)
    (plain,) = attended(image_of, case, taps=False, orders=1)
    np.testing.assert_array_equal(plain, out)


@pytest.mark.parametrize("half", [False, True])
def test_a_nan_key_spoils_the_queries_that_see_it(image_of: Images, half: bool) -> None:
    case = Case((2, 1, 64), 0, 20, half)
    case.caches[0][0, 12, 3] = np.nan
    (out,) = attended(image_of, case, taps=False)
    np.testing.assert_array_equal(np.isnan(out).all(1), np.arange(20) >= 12)
    np.testing.assert_array_equal(np.isnan(out).any(1), np.arange(20) >= 12)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", [Kind(), Kind(40, sinks=True, softcap=2.0)], ids=str)
def test_bits_of_a_query_depend_on_no_chunk(image_of: Images, half: bool, kind: Kind) -> None:
    whole = Case((2, 1, 96), 0, 130, half, kind)
    (expected,) = attended(image_of, whole, taps=False, orders=1)
    for first, tokens in ((0, 13), (13, 70), (83, 47)):
        part = Case((2, 1, 96), first, tokens, half, kind)
        part.q, part.sinks = whole.q[first : first + tokens], whole.sinks
        part.caches = [cache[:, : part.context].copy() for cache in whole.caches]
        (found,) = attended(image_of, part, taps=False, orders=1)
        np.testing.assert_array_equal(found, expected[first : first + tokens])


def test_sums_of_values_of_one_sign_err_less_than_a_replay_allows(image_of: Images) -> None:
    """What tensor cores cut off adds up where all values have one sign, and no key stands out."""
    case = Case((2, 1, 128), 300, 40, True)
    case.q *= np.float32(0.01)
    keys, values = (cache[0, :340].astype("f8") for cache in case.caches)
    case.caches[1][0, :340] = np.abs(values) + 2
    scores = case.scale * np.einsum("thc,kc->thk", case.q.reshape(40, 2, 128).astype("f8"), keys)
    seen = np.arange(340) <= 300 + np.arange(40)[:, None]
    powers = np.where(seen[:, None], np.exp(scores), 0)
    expected = powers / powers.sum(-1, keepdims=True) @ case.caches[1][0, :340].astype("f8")
    (found,) = attended(image_of, case, taps=False, orders=1)
    assert relative(found, expected.reshape(40, -1)) <= 1e-6


def test_scores_of_queries_of_any_magnitude_are_as_exact(image_of: Images) -> None:
    case = Case((2, 1, 64), 0, 20, True)
    (plain, *_) = attended(image_of, case, taps=True, orders=1)
    factors = np.exp2(np.linspace(-90, 80, 20).astype(int)).astype("f4")
    case.q *= factors[:, None]
    (found, *_) = attended(image_of, case, taps=True, orders=1)
    np.testing.assert_array_equal(found[..., :20], plain[..., :20] * factors[:, None])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("half", [False, True])
def test_a_value_that_is_not_finite_reaches_the_queries_that_see_it_and_its_channel_alone(
    image_of: Images, half: bool, bad: float
) -> None:
    case = Case((2, 1, 64), 3, 60, half, Kind(20))
    (clean,) = attended(image_of, case, taps=False, orders=1)
    case.caches[1][0, 10 + 3, 5] = bad
    (out,) = attended(image_of, case, taps=False)
    seen = (np.arange(60) >= 10) & (np.arange(60) < 30)
    channel = np.arange(128) % 64 == 5
    reached = seen[:, None] & channel
    np.testing.assert_array_equal(out[~reached], clean[~reached])
    assert (np.isnan(out) if np.isnan(bad) else out == bad)[reached].all()


@pytest.mark.parametrize(("position", "key", "window"), [(0, 12, 0), (20, 3, 5)], ids=["seen", "behind a window"])
@pytest.mark.parametrize("half", [False, True])
def test_scores_of_a_key_that_overflowed_are_infinite(
    image_of: Images, half: bool, position: int, key: int, window: int
) -> None:
    shape, kind, first = (2, 1, 64), Kind(window), max(key - position, 0)
    case = Case(shape, position, 20, half, kind)
    case.caches[0][0, key, 3] = np.inf
    (clean,) = attended(image_of, Case(shape, position, 20, half, kind), taps=False, orders=1)
    scores, *_, out = attended(image_of, case, taps=True)
    expected = np.inf * np.sign(case.q.reshape(20, 2, 64)[first:, :, 3].T)
    np.testing.assert_array_equal(scores[:, first:, key], expected)
    assert np.isfinite(np.delete(scores, key, 2)).all()
    unseen = slice(None) if window else slice(first)
    np.testing.assert_array_equal(out[unseen], clean[unseen])


@pytest.mark.parametrize("widest", [64, 128, 256])
def test_tiles_of_a_half_cache_are_stored_and_loaded_without_waiting_for_banks(
    build_image: Images, widest: int
) -> None:
    image = build_image(Path(__file__).with_name("attention_banks.cu"))
    (words,) = image.run(f"banks_{widest}", (1,), 128, Out((128, 9), np.int32), orders=1)
    of_values = words[:, 5:]
    assert np.unique(of_values).size == of_values.size == 512, "each value has its own place"
    for touched in words.T:
        for lanes in touched.reshape(-1, 8):  # as many as move 128 bytes at a time
            assert np.unique(lanes % 8).size == 8
