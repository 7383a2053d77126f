"""Attention of one token and of a prompt against the reference engine's ops, maps included."""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.engine.cuda.launches import attention_kernel
from aprtui.engine.reference import ops
from aprtui.model.config import ModelConfig, Rope
from aprtui.trace.graph.config import GraphConfig
from tests.kernels.cases import NO_Q8, assert_q8_of, q8_out, relative, step
from tests.kernels.emulated import Images, InOut, Out, Struct

pytestmark = pytest.mark.group("emulator")

BOUND = 5e-7
# heads, K/V heads, channels of a head: grouped, one K/V head for more than eight, odd width, the widest
SHAPES = [(4, 2, 64), (10, 1, 32), (2, 2, 80), (7, 1, 128), (2, 1, 192), (2, 1, 256)]


class Case:
    """Queries, caches and the reference's answer; unused positions of the caches hold NaN."""

    def __init__(self, shape: tuple[int, int, int], position: int, tokens: int, half: bool) -> None:
        self.heads, self.kv_heads, self.dim = shape
        self.position, self.tokens, self.half = position, tokens, half
        self.total, self.context = position + tokens, position + tokens + 5
        self.map_stride = self.total + 3
        graph = GraphConfig("qwen2", 1, 32, self.heads, self.kv_heads, self.dim, 32, 32)
        config = ModelConfig(graph, self.context, 1e-6, Rope(1e4))
        rng = np.random.default_rng([*shape, position, tokens])
        self.q = rng.standard_normal((tokens, graph.q_width), np.float32) * 2
        kind = np.float16 if half else np.float32
        k, v = (rng.standard_normal((self.total, graph.kv_width), np.float32).astype(kind) for _ in range(2))
        self.caches = [np.full((self.kv_heads, self.context, self.dim), np.nan, kind) for _ in range(2)]
        for cache, values in zip(self.caches, (k, v), strict=True):
            cache[:, : self.total] = values.reshape(self.total, self.kv_heads, self.dim).transpose(1, 0, 2)
        self.scores = ops.scores(self.q, k.astype(np.float32), config)
        self.softmax = ops.softmax(self.scores)
        self.out = ops.attend(self.softmax, v.astype(np.float32), config)

    def arguments(self, *, taps: bool, q8: Struct = NO_Q8, softmax: bool = True) -> Struct:
        maps = np.full((self.heads, self.tokens, self.map_stride), 77, np.float32)
        tapped = (InOut(maps) if taps else None, InOut(maps) if taps and softmax else None)
        return Struct((
            self.q, *self.caches, *tapped, Out(self.out.shape), q8, self.heads, self.kv_heads, self.dim, self.context,
            self.map_stride, int(self.half),
        ))  # fmt: skip

    def check_maps(self, scores: np.ndarray, softmax: np.ndarray) -> None:
        for found, expected in ((scores, self.scores), (softmax, self.softmax)):
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
    case = Case(shape, position, 1, half)
    kernel, at_once = attention_kernel(case.heads // case.kv_heads, case.dim)
    passes = -(-case.heads // case.kv_heads // at_once)
    partial = np.full((case.heads, splits, case.dim + 2), np.nan, np.float32)
    rest = (step(position), partial, InOut(np.zeros(case.kv_heads * passes, np.uint32)))
    grid, run = (splits, case.kv_heads, passes), image_of("attend_one").run
    whole_blocks = case.heads // case.kv_heads * case.dim % 32 == 0
    q8 = q8_out(case.out.size) if whole_blocks else NO_Q8
    tapped = case.arguments(taps=True, q8=q8, softmax=False)
    scores, out, *quantised, counters, states = run(kernel, grid, 128, tapped, *rest, Out((case.heads, 2)))
    assert relative(out, case.out) <= BOUND
    maps = np.stack([scores, np.full_like(scores, 77)])[None]
    (maps,) = run(
        "softmax_maps",
        (1, case.heads, 1),
        256,
        InOut(maps),
        states,
        step(position),
        case.heads,
        case.map_stride,
        maps.size,
    )
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
        "softmax_maps", (3, heads, layers), 256, InOut(maps), states, step(total - 1), heads, stride, layer_stride
    )
    both[:, 1, :, :total] = powers / sums
    assert relative(found[found != 77], maps[maps != 77]) <= BOUND
    np.testing.assert_array_equal(found == 77, maps == 77)


def prompt_shared(head_dim: int) -> int:
    """Bytes of dynamic shared memory that `attend_prompt` wants; any device gives 48 KB unasked."""
    size = 4 * (16 * head_dim + 32 * min(head_dim, 128) + 544)
    assert size <= 48 << 10
    return size


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("position", "tokens"), [(0, 1), (0, 37), (30, 18)])
@pytest.mark.parametrize("shape", SHAPES)
def test_prompt_attends_causally(
    image_of: Images, shape: tuple[int, int, int], position: int, tokens: int, half: bool
) -> None:
    case = Case(shape, position, tokens, half)
    grid, shared = (-(-tokens // 16), case.heads), prompt_shared(case.dim)
    run = image_of("attend_prompt").run
    arguments = case.arguments(taps=True)
    scores, softmax, out = run("attend_prompt", grid, 128, arguments, step(position, tokens), shared=shared)
    assert relative(out, case.out) <= BOUND
    case.check_maps(scores, softmax)
    plain = run("attend_prompt", grid, 128, case.arguments(taps=False), step(position, tokens), shared=shared, orders=1)
    np.testing.assert_array_equal(plain[0], out)


def test_a_nan_key_spoils_the_queries_that_see_it(image_of: Images) -> None:
    case = Case((2, 1, 64), 0, 20, False)
    case.caches[0][0, 12, 3] = np.nan
    (out,) = image_of("attend_prompt").run(
        "attend_prompt", (2, 2), 128, case.arguments(taps=False), step(0, 20), shared=prompt_shared(64)
    )
    np.testing.assert_array_equal(np.isnan(out).all(1), np.arange(20) >= 12)
    np.testing.assert_array_equal(np.isnan(out).any(1), np.arange(20) >= 12)
