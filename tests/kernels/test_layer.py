"""Kernels between the matrix products and attention, against the reference engine's ops."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from aprtui import resources
from aprtui.engine.cuda.launches import norm_threads, variant
from aprtui.engine.reference import ops
from aprtui.engine.rounding import round_f16
from aprtui.model.config import ModelConfig, QueryTemperature, Rope, RopeAngles
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.config import GraphConfig, RopeLayout
from tests.kernels.cases import (
    FLOAT_TYPES,
    KINDS,
    NO_NORM,
    NO_Q8,
    activations,
    assert_q8_of,
    matrix,
    q8_out,
    relative,
    rounded,
    step,
    weight_of,
    wide,
)
from tests.kernels.emulated import Images, InOut, Out, Struct, kernel_names

pytestmark = pytest.mark.group("emulator")

CONTEXT, EPSILON = 12, 1e-6


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def vector(values: np.ndarray) -> Weight:
    return Weight("v", WeightType.F32, 1, values.size, values.reshape(1, -1).view(np.uint8))


@pytest.mark.parametrize("columns", [32, 320, 1536, 4128, 16384])
def test_rms_norm_and_its_q8_are_those_of_the_reference(image_of: Images, columns: int) -> None:
    x, weight, threads = normal(3, columns) * 5, normal(columns), norm_threads(columns)
    out, levels, scales = image_of("norm").run(
        "rms_norm", (3,), threads, x, weight, Out(x.shape), q8_out(x.size), columns, EPSILON
    )
    assert relative(out, ops.rms_norm(x, vector(weight), EPSILON)) <= 3e-7
    assert_q8_of(out, levels, scales)
    (alone,) = image_of("norm").run("rms_norm", (3,), threads, x, weight, Out(x.shape), NO_Q8, columns, EPSILON)
    np.testing.assert_array_equal(alone, out)


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_rows_are_bit_equal_to_gguf(image_of: Images, kind: WeightType) -> None:
    table, tokens = weight_of(kind, 9, 768), np.array([8, 0, 3, 3], np.int32)
    run = image_of("embedding").run
    (rows,) = run("embed", (4,), 128, matrix(table), tokens, Out((4, 768)), 1.0)
    np.testing.assert_array_equal(rows, table.dequantize(tokens.tolist()))
    (scaled,) = run("embed", (4,), 128, matrix(table), tokens, Out((4, 768)), 25.3, orders=1)
    np.testing.assert_array_equal(scaled, ops.embed(table, tokens.tolist(), 25.3))


# ---- heads

CASES = {
    "qwen2": GraphConfig("qwen2", 1, 256, 4, 2, 64, 512, 300, qkv_bias=True),
    "qwen3": GraphConfig("qwen3", 1, 256, 3, 1, 128, 512, 300, qk_norm=True),
    "llama": GraphConfig("llama", 1, 256, 2, 2, 80, 512, 300, rope_layout=RopeLayout.INTERLEAVED),
    "partly turned": GraphConfig("glm4moe", 1, 256, 3, 1, 72, 512, 300, qk_norm=True, rope_dim=24),
    "not turned": GraphConfig("smollm3", 1, 256, 2, 1, 64, 512, 300, no_rope=(True,)),
    "scaled": GraphConfig("mistral3", 1, 256, 2, 1, 64, 512, 300, query_temperature=True),
}


class HeadCase:
    """A product and what the reference makes of it."""

    def __init__(self, graph: GraphConfig) -> None:
        self.graph = graph
        temperature = QueryTemperature(0.5, 2) if graph.query_temperature else None
        self.config = ModelConfig(graph, CONTEXT, EPSILON, Rope(10000.0), query_temperature=temperature)
        self.q_norm, self.k_norm = (1 + 0.1 * normal(graph.head_dim, seed=seed) for seed in (2, 3))
        widths = (graph.q_width, graph.kv_width, graph.kv_width)
        self.biases = [normal(width, seed=4 + i) for i, width in enumerate(widths)]

    def arguments(self, product: np.ndarray | InOut | Out, *, half: bool, taps: bool) -> Struct:
        graph, tokens = self.graph, (product.values if isinstance(product, InOut) else product).shape[0]
        rotated, temperature = graph.rotated if graph.has_rope(0) else 0, self.config.query_temperature
        turns = np.stack(self.config.rope.turns(0, CONTEXT, rotated, RopeAngles.F64), -1).astype(np.float32)
        cache = np.full((graph.kv_heads, CONTEXT, graph.head_dim), 9, np.float16 if half else np.float32)
        q, k, qkv = (tokens, graph.q_width), (tokens, graph.kv_width), (tokens, graph.qkv_width)
        return Struct((
            *(self.biases if graph.qkv_bias else (None, None, None)),
            *((self.q_norm, self.k_norm) if graph.qk_norm else (None, None)),
            turns if rotated else None, temperature and temperature.factors(0, CONTEXT),
            InOut(cache), InOut(cache), product,
            Out(qkv) if taps else None,
            *((Out(q), Out(k)) if taps and graph.qk_norm else (None, None)),
            Out(q) if taps or not temperature else None, Out(k) if taps else None, Out(q) if temperature else None,
            EPSILON, graph.heads, graph.kv_heads, graph.head_dim, CONTEXT, rotated,
            int(graph.rope_layout is RopeLayout.INTERLEAVED), int(half),
        ))  # fmt: skip

    def check(self, found: list[np.ndarray], product: np.ndarray, position: int, *, half: bool, taps: bool) -> None:
        graph, results = self.graph, iter(found)
        q_width, k_end = graph.q_width, graph.q_width + graph.kv_width
        key_cache, value_cache = next(results), next(results)
        fused = product + np.concatenate(self.biases) if graph.qkv_bias else product
        q, k, v = fused[:, :q_width], fused[:, q_width:k_end], fused[:, k_end:]
        if taps:
            np.testing.assert_array_equal(next(results), fused)
        if graph.qk_norm:
            q = ops.head_rms_norm(q, vector(self.q_norm), EPSILON)
            k = ops.head_rms_norm(k, vector(self.k_norm), EPSILON)
            if taps:
                assert relative(next(results), q) <= 3e-7
                assert relative(next(results), k) <= 3e-7
        q_turned = ops.rope(q, self.config.graph.head_dim, position, self.config, 0, RopeAngles.F64)
        k_turned = ops.rope(k, self.config.graph.head_dim, position, self.config, 0, RopeAngles.F64)
        if taps or not graph.query_temperature:
            assert relative(next(results), q_turned) <= 3e-7
        if taps:
            assert relative(next(results), k_turned) <= 3e-7
        if graph.query_temperature:
            assert relative(next(results), ops.scale_by_position(q_turned, position, self.config)) <= 3e-7
        tokens = len(product)
        places = slice(position, position + tokens)
        for cache, values in ((key_cache, k_turned), (value_cache, v)):
            expected = values.reshape(tokens, graph.kv_heads, -1).transpose(1, 0, 2)
            # A value next to a rounding boundary of float16 may fall to the other side of it.
            assert relative(cache[:, places].astype(np.float32), round_f16(expected) if half else expected) <= (
                5e-5 if half else 3e-7
            )
            assert (np.delete(cache, np.arange(position, position + tokens), axis=1) == 9).all(), (
                "wrote other positions"
            )


@pytest.mark.parametrize("taps", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", list(CASES))
def test_heads_of_a_prompt(image_of: Images, name: str, half: bool, taps: bool) -> None:
    case = HeadCase(CASES[name])
    product = normal(3, case.graph.qkv_width, seed=9)
    grid = (case.graph.heads + 2 * case.graph.kv_heads, 3)
    arguments = case.arguments(product, half=half, taps=taps)
    case.check(image_of("heads").run("heads", grid, 128, arguments, step(5, 3)), product, 5, half=half, taps=taps)


@pytest.mark.parametrize("mode", ["exact", "q8"])
@pytest.mark.parametrize("name", list(CASES))
def test_qkv_of_one_token(image_of: Images, name: str, mode: str) -> None:
    case, graph = HeadCase(CASES[name]), CASES[name]
    kinds = (WeightType.Q4_K, WeightType.Q8_0, WeightType.F16 if name == "llama" else WeightType.Q6_K)
    rows = (graph.q_width, graph.kv_width, graph.kv_width)
    weights = [
        weight_of(kind, count, graph.hidden, seed=i) for i, (kind, count) in enumerate(zip(kinds, rows, strict=True))
    ]
    x, count = normal(1, graph.hidden, seed=10), graph.heads + 2 * graph.kv_heads
    results = {}
    for taps in (False, True):
        arguments = case.arguments(Out((1, graph.qkv_width)), half=False, taps=taps)
        found = image_of("qkv").run(
            f"qkv_{mode}", (-(-graph.head_dim // 8), count), 128, *map(matrix, weights), activations(x), arguments,
            step(7), InOut(np.zeros(count, np.uint32)),
        )  # fmt: skip
        product = found.pop(2)
        assert not found.pop().any(), "counters are left at 0"
        expected = np.concatenate([rounded(x, w, mode) @ wide(w).T for w in weights], axis=1)
        assert relative(product, expected) <= 5e-7
        case.check(found, product, 7, half=False, taps=taps)
        results[taps] = (found[0], found[1], product)
    for plain, tapped in zip(results[False], results[True], strict=True):
        np.testing.assert_array_equal(plain, tapped)


def variants(kernel: str) -> list[tuple[WeightType, ...]]:
    """The types of the matrices of `kernel`'s variants: of each argument, the last one's repeated."""
    names = [name for name in kernel_names(resources.kernels() / f"{kernel}.cu") if name.startswith(f"{kernel}_q8_")]
    types = {kind.name.lower(): kind for kind in WeightType}
    found = [re.findall("|".join(types), name.removeprefix(f"{kernel}_q8_")) for name in names]
    return [tuple(types[kind] for kind in kinds) for kinds in found]


@pytest.mark.parametrize("kinds", variants("qkv"), ids=str)
def test_qkv_of_certain_types_gives_the_bits_of_the_kernel_of_all_types(
    image_of: Images, kinds: tuple[WeightType, ...]
) -> None:
    case, graph = HeadCase(CASES["qwen3"]), CASES["qwen3"]
    rows = (graph.q_width, graph.kv_width, graph.kv_width)
    chosen = (kinds[0], kinds[0], kinds[-1])
    weights = [
        weight_of(kind, count, graph.hidden, seed=i) for i, (kind, count) in enumerate(zip(chosen, rows, strict=True))
    ]
    x, count = normal(1, graph.hidden, seed=10), graph.heads + 2 * graph.kv_heads
    arguments = (*map(matrix, weights), activations(x), case.arguments(Out((1, graph.qkv_width)), half=True, taps=True))
    one, other = (
        image_of("qkv").run(
            name, (-(-graph.head_dim // 8), count), 128, *arguments, step(7), InOut(np.zeros(count, np.uint32)),
            orders=1,
        )
        for name in ("qkv_q8", variant("qkv_q8", *chosen[1:]))
    )  # fmt: skip
    for of_all, of_these in zip(one, other, strict=True):
        np.testing.assert_array_equal(of_all, of_these)


# ---- feed-forward


@pytest.mark.parametrize("kinds", variants("gate_up"), ids=str)
def test_gate_up_of_one_type_gives_the_bits_of_the_kernel_of_all_types(
    image_of: Images, kinds: tuple[WeightType, ...]
) -> None:
    gate, up = (weight_of(kinds[0], 64, 512, seed=i) for i in range(2))
    x, outputs = activations(normal(1, 512) * 3), Struct((*(Out((1, 64)) for _ in range(4)), q8_out(64), 0))
    one, other = (
        image_of("gate_up").run(name, (2,), 256, matrix(gate), matrix(up), x, outputs, orders=1)
        for name in ("gate_up_q8", variant("gate_up_q8", *kinds))
    )
    for of_all, of_these in zip(one, other, strict=True):
        np.testing.assert_array_equal(of_all, of_these)


@pytest.mark.parametrize("mode", ["exact", "q8"])
@pytest.mark.parametrize("kinds", [(WeightType.Q4_K, WeightType.Q4_K), (WeightType.Q5_0, WeightType.F16)])
def test_gate_up_of_one_token(image_of: Images, mode: str, kinds: tuple[WeightType, WeightType]) -> None:
    gate, up = (weight_of(kind, 64, 512, seed=i) for i, kind in enumerate(kinds))
    x, shape = normal(1, 512) * 3, (1, 64)
    tapped = Struct((Out(shape), Out(shape), Out(shape), Out(shape), q8_out(64), 0))
    run = image_of("gate_up").run
    gates, ups, silu, out, levels, scales = run(
        f"gate_up_{mode}", (2,), 256, matrix(gate), matrix(up), activations(x), tapped
    )
    for found, weight in ((gates, gate), (ups, up)):
        assert relative(found, rounded(x, weight, mode) @ wide(weight).T) <= 5e-7
    assert relative(silu, ops.silu(gates)) <= 3e-7
    np.testing.assert_array_equal(out, ops.multiply(silu, ups))
    assert_q8_of(out, levels, scales)
    plain = Struct((None, None, None, None, q8_out(64), 0))
    again = run(f"gate_up_{mode}", (2,), 256, matrix(gate), matrix(up), activations(x), plain)
    np.testing.assert_array_equal(again[0], levels)
    np.testing.assert_array_equal(again[1], scales)
    assert kinds[0] not in FLOAT_TYPES


GATED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    0: ops.silu,
    1: lambda x: ops.gelu(x, "f32"),
}
"""The activations of activation.cuh that are a stage of their own."""


@pytest.mark.parametrize("activation", GATED)
def test_the_activation_of_a_prompt(image_of: Images, activation: int) -> None:
    gate, up = normal(5, 96, seed=1) * 8, normal(5, 96, seed=2)
    gate[0, 0], gate[0, 1] = 120, -120  # exp beyond the range of float32
    out = Struct((None, None, Out(gate.shape), Out(gate.shape), q8_out(gate.size), activation))
    active, value, levels, scales = image_of("activate").run("activate", (2,), 256, gate, up, out, 15)
    assert relative(active, GATED[activation](gate)) <= 3e-7
    np.testing.assert_array_equal(value, ops.multiply(active, up))
    assert_q8_of(value, levels, scales)


def test_the_activation_of_gpt_oss_clamps_and_lets_nan_through(image_of: Images) -> None:
    gate, up = normal(5, 96, seed=1) * 8, normal(5, 96, seed=2) * 8
    gate[1, 1] = up[2, 2] = np.nan
    out = Struct((None, None, None, Out(gate.shape), NO_Q8, 2))
    (value,) = image_of("activate").run("activate", (2,), 256, gate, up, out, 15)
    expected = ops.swiglu_oai(gate, up)
    np.testing.assert_array_equal(np.isnan(value), np.isnan(expected))
    assert relative(np.nan_to_num(value), np.nan_to_num(expected)) <= 3e-7


# ---- residual


@pytest.mark.parametrize("columns", [32, 2880, 5376])
@pytest.mark.parametrize(("biased", "normed"), [(False, True), (True, False), (True, True), (False, False)])
def test_what_a_block_gives_is_added_step_by_step_and_normed_as_by_rms_norm(
    image_of: Images, columns: int, biased: bool, normed: bool
) -> None:
    tokens, threads = 2, norm_threads(columns)
    x, residual = normal(tokens, columns) * 5, normal(tokens, columns, seed=3)
    bias, weight, next_weight = (normal(columns, seed=seed) for seed in (4, 5, 6))

    def given(*, taps: bool) -> Struct:
        tap = Out(x.shape) if taps else None
        return Struct((
            x, None, None, *((bias, tap) if biased else (None, None)), *((weight, tap) if normed else (None, None)),
            residual, Out(x.shape), columns, 0, EPSILON,
        ))  # fmt: skip

    following = Struct((next_weight, Out(x.shape), q8_out(x.size), None, EPSILON))
    found = image_of("residual").run("add_to_residual", (tokens,), threads, given(taps=True), following)
    value, results = x, iter(found)
    if biased:
        value = next(results)
        np.testing.assert_array_equal(value, x + bias)
    if normed:
        expected = ops.rms_norm(value, vector(weight), EPSILON)
        value = next(results)
        assert relative(value, expected) <= 3e-7
    total, out, levels, scales = results
    np.testing.assert_array_equal(total, ops.add(residual, value))
    run = image_of("norm").run
    alone = run(
        "rms_norm", (tokens,), threads, total, next_weight, Out(x.shape), q8_out(x.size), columns, EPSILON, orders=1
    )
    for of_sum, of_norm in zip((out, levels, scales), alone, strict=True):
        np.testing.assert_array_equal(of_sum, of_norm)
    run = image_of("residual").run
    (untapped,) = run("add_to_residual", (tokens,), threads, given(taps=False), NO_NORM, orders=1)
    np.testing.assert_array_equal(untapped, total)


def test_softcaps_of_logits(image_of: Images) -> None:
    x = normal(1000) * 40
    x[3], x[4] = np.nan, np.inf
    (out,) = image_of("softcap").run("softcap", (4,), 256, x, Out(x.shape), 1000, 30.0)
    expected = ops.softcap(x, 30.0)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    assert relative(np.nan_to_num(out), np.nan_to_num(expected)) <= 3e-7
