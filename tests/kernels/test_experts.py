"""Routers and experts against the reference engine's ops."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from aprtui import resources
from aprtui.engine.cuda.launches import variant
from aprtui.engine.cuda.sizes import expert_tiles
from aprtui.engine.reference import ops
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.config import ExpertGroups, GroupScore
from tests.kernels.cases import activations, assert_q8_of, matrix, q8_out, relative, rounded, weight_of, wide
from tests.kernels.emulated import Images, Out, Struct, kernel_names

pytestmark = pytest.mark.group("emulator")

SOFTMAX, SIGMOID, LOGITS = 0, 1, 2
AS_TAKEN, NORMALISED, SOFTMAX_OF_CHOSEN = 0, 1, 2
TOKENS, EXPERTS, USED = 3, 7, 3


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def routed(
    image_of: Images, logits: np.ndarray, used: int, kind: int, normalisation: int, scale: float = 0.0,
    bias: np.ndarray | None = None, choice_bias: np.ndarray | None = None, groups: ExpertGroups | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """Router, what the choice is made by (with a bias of its own), indices, taken, normalised, scaled, as there are."""
    chosen = (len(logits), used)
    limits = (0, 0, 0) if groups is None else (groups.count, groups.used, int(groups.score is GroupScore.TWO_LARGEST))
    router = Struct((
        logits, bias, Out(logits.shape), choice_bias, Out(logits.shape) if choice_bias is not None else None,
        Out(chosen), Out(chosen), Out(chosen) if normalisation else None, Out(chosen) if scale else None,
        logits.shape[1], used, kind, normalisation, scale, *limits,
    ))  # fmt: skip
    return image_of("experts").run("route", (len(logits),), 32, router)


@pytest.mark.parametrize(("experts", "used"), [(7, 3), (64, 8), (300, 10), (512, 32)])
def test_a_softmax_over_all_experts_chooses_and_weighs(image_of: Images, experts: int, used: int) -> None:
    logits = normal(TOKENS, experts) * 3
    router, indices, taken, normalised = routed(image_of, logits, used, SOFTMAX, NORMALISED)
    assert relative(router, ops.router_softmax(logits)) <= 5e-7
    np.testing.assert_array_equal(indices, ops.choose_experts(router, used))
    np.testing.assert_array_equal(taken, ops.take_chosen(router, indices))
    assert relative(normalised, ops.normalise_chosen(taken)) <= 3e-7


def test_a_sigmoid_is_weighed_without_the_bias_that_it_is_chosen_with(image_of: Images) -> None:
    logits, bias = normal(TOKENS, 40), normal(40, seed=2)
    found = routed(image_of, logits, 4, SIGMOID, NORMALISED, 1.5, choice_bias=bias)
    router, biased, indices, taken, normalised, scaled = found
    assert relative(router, ops.sigmoid(logits)) <= 3e-7
    np.testing.assert_array_equal(biased, router + bias)
    np.testing.assert_array_equal(indices, ops.choose_experts(biased, 4))
    np.testing.assert_array_equal(taken, ops.take_chosen(router, indices))
    assert relative(normalised, ops.normalise_chosen(taken)) <= 3e-7
    np.testing.assert_array_equal(scaled, ops.scale_chosen(normalised, 1.5))


def test_logits_with_a_bias_choose_and_a_softmax_of_the_chosen_weighs(image_of: Images) -> None:
    logits, bias = normal(TOKENS, 32), normal(32, seed=2)
    router, indices, taken, weights = routed(image_of, logits, 4, LOGITS, SOFTMAX_OF_CHOSEN, bias=bias)
    np.testing.assert_array_equal(router, logits + bias)
    np.testing.assert_array_equal(indices, ops.choose_experts(router, 4))
    assert relative(weights, ops.router_softmax(taken)) <= 3e-7


def test_of_equal_experts_the_first_is_chosen_and_nan_comes_last(image_of: Images) -> None:
    logits = np.zeros((3, 40), np.float32)
    logits[0, [3, 38]] = 1
    logits[1, ::2] = -0.0
    logits[2, :36], logits[2, 37] = np.nan, -np.inf
    router, indices, *_ = routed(image_of, logits, 6, LOGITS, AS_TAKEN)
    np.testing.assert_array_equal(indices, ops.choose_experts(router, 6))
    np.testing.assert_array_equal(indices[0], [3, 38, 0, 1, 2, 4])


@pytest.mark.parametrize("score", list(GroupScore))
@pytest.mark.parametrize(("experts", "used", "count", "of_token"), [(12, 3, 4, 2), (256, 8, 8, 4), (512, 32, 256, 17)])
def test_experts_are_chosen_among_those_of_the_best_groups(
    image_of: Images, experts: int, used: int, count: int, of_token: int, score: GroupScore
) -> None:
    groups, logits, bias = ExpertGroups(count, of_token, score), normal(TOKENS, experts), normal(experts, seed=2)
    logits[1] = np.round(logits[1])  # many equal ones
    bias[::5] = 0
    biased, indices = routed(image_of, logits, used, LOGITS, AS_TAKEN, choice_bias=bias, groups=groups)[1:3]
    np.testing.assert_array_equal(indices, ops.choose_experts(biased, used, groups))
    assert (indices != ops.choose_experts(biased, used)).any(), "groups change the choice"


def test_groups_without_numbers_come_last(image_of: Images) -> None:
    logits = normal(4, 12)
    logits[0, :3] = np.nan  # one number each in a group of four
    logits[1, 4:8] = np.nan
    logits[2, [0, 1, 4]] = np.inf, -np.inf, -np.inf
    logits[3, :8] = -np.inf
    for score in GroupScore:
        groups = ExpertGroups(3, 2, score)
        found = routed(image_of, logits, 6, LOGITS, AS_TAKEN, groups=groups)[1]
        np.testing.assert_array_equal(found, ops.choose_experts(logits, 6, groups))


def test_weights_that_are_all_but_zero_are_divided_by_the_least_sum(image_of: Images) -> None:
    logits = np.full((1, 8), -30, np.float32)
    *_, taken, normalised = routed(image_of, logits, 2, SIGMOID, NORMALISED)
    assert relative(normalised, ops.normalise_chosen(taken)) <= 3e-7


# ---- products

FFN, HIDDEN = 64, 256
INDICES = np.array([[2, 0, 6], [2, 5, 1], [4, 3, 2]], np.float32)


def experts_of(kind: WeightType, rows: int, columns: int, seed: int) -> Weight:
    return replace(weight_of(kind, EXPERTS * rows, columns, seed=seed), experts=EXPERTS)


def product(x: np.ndarray, weight: Weight, mode: str) -> np.ndarray:
    """What the chosen experts make of `x`, `[TOKENS, USED, rows]`, in float64."""
    rows = ops.expert_rows(x, weight.columns, USED)
    expert = [[wide(weight.expert(int(index))) for index in chosen] for chosen in INDICES]
    of_rows = [[rounded(row[None], weight, mode)[0] for row in chosen] for chosen in rows]
    found: np.ndarray = np.einsum("tkrc,tkc->tkr", expert, of_rows)
    return found


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("mode", ["exact", "q8"])
@pytest.mark.parametrize("kinds", [(WeightType.Q4_K, WeightType.Q4_K), (WeightType.MXFP4, WeightType.F16)])
def test_gate_and_up_of_the_chosen_experts(
    image_of: Images, kinds: tuple[WeightType, WeightType], mode: str, biased: bool
) -> None:
    gate, up = (experts_of(kind, FFN, HIDDEN, seed) for seed, kind in enumerate(kinds))
    x, shape = normal(TOKENS, HIDDEN) * 3, (TOKENS, USED, FFN)
    biases = [normal(EXPERTS, FFN, seed=seed) for seed in (5, 6)]

    def arguments(*, taps: bool) -> tuple[object, ...]:
        tap = Out(shape) if taps else None
        outputs = Struct((tap, tap, tap, tap, q8_out(TOKENS * USED * FFN), 1))
        of_bias = (*biases, tap, tap) if biased else (None,) * 4
        chosen = Struct((INDICES, *of_bias, FFN, USED))
        return matrix(gate), matrix(up), activations(x), outputs, chosen

    run, grid = image_of("experts").run, (FFN // 32, USED, TOKENS)
    gates, ups, active, out, levels, scales, *products = run(f"expert_gate_up_{mode}", grid, 256, *arguments(taps=True))
    made = products if biased else [gates, ups]
    for found, weight in zip(made, (gate, up), strict=True):
        assert relative(found, product(x, weight, mode)) <= 5e-7
    if biased:
        for found, before, bias in zip((gates, ups), products, biases, strict=True):
            np.testing.assert_array_equal(found, before + bias[INDICES.astype(int)])
    assert relative(active, ops.gelu(gates, "f32")) <= 3e-7
    np.testing.assert_array_equal(out, active * ups)
    assert_q8_of(out, levels, scales)
    again = run(f"expert_gate_up_{mode}", grid, 256, *arguments(taps=False), orders=1)
    np.testing.assert_array_equal(again[0], levels)
    np.testing.assert_array_equal(again[1], scales)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("mode", ["exact", "q8"])
@pytest.mark.parametrize("kind", [WeightType.Q6_K, WeightType.BF16])
def test_down_of_the_chosen_experts(image_of: Images, kind: WeightType, mode: str, biased: bool) -> None:
    rows = 96
    weight, x, shape = experts_of(kind, rows, HIDDEN, 3), normal(TOKENS, USED * HIDDEN), (TOKENS, USED, rows)
    bias = normal(EXPERTS, rows, seed=5)
    output = Struct((Out(shape), *((bias, Out(shape)) if biased else (None, None))))
    chosen = Struct((INDICES, None, None, None, None, rows, USED))
    of_block = 8 if mode == "exact" else 16
    found, *others = image_of("experts").run(
        f"expert_down_{mode}", (-(-rows // of_block), USED, TOKENS), 256, matrix(weight), activations(x), chosen, output
    )
    assert relative(found, product(x, weight, mode)) <= 5e-7
    if biased:
        np.testing.assert_array_equal(others[0], found + bias[INDICES.astype(int)])


SLOTS_OF_TILE = 64
NOWHERE = Struct((Struct((None, 0, 0, 0)), None, None, None))


def sorted_slots(image_of: Images, indices: np.ndarray, experts: int) -> tuple[np.ndarray, np.ndarray]:
    """Slots in the order of their experts, and tiles `[tiles, (expert, first, count, 0)]`."""
    tiles = expert_tiles(indices.size, experts)
    slots, found = image_of("experts").run(
        "sort_slots", (1,), 512, indices, Struct((Out((indices.size,), np.int32), Out((tiles, 4), np.int32), 0, 0)),
        indices.size, experts, tiles,
    )  # fmt: skip
    return slots, found


@pytest.mark.parametrize(
    ("tokens", "used", "experts"), [(1, 1, 1), (5, 3, 7), (90, 8, 128), (300, 2, 3), (512, 32, 512), (200, 4, 40)]
)
def test_slots_are_sorted_by_their_experts_and_keep_their_order(
    image_of: Images, tokens: int, used: int, experts: int
) -> None:
    random = np.random.default_rng([tokens, experts])
    indices = np.argsort(random.random((tokens, experts)) ** (np.arange(experts) + 1))[:, -used:].astype("f4")
    slots, tiles = sorted_slots(image_of, indices, experts)
    np.testing.assert_array_equal(slots, np.argsort(indices.reshape(-1), kind="stable"))
    counts = np.bincount(indices.reshape(-1).astype(int), minlength=experts)
    expected = [
        (expert, counts[:expert].sum() + start, min(SLOTS_OF_TILE, count - start), 0)
        for expert, count in enumerate(counts)
        for start in range(0, count, SLOTS_OF_TILE)
    ]
    np.testing.assert_array_equal(tiles[: len(expected)], expected)
    assert not tiles[len(expected) :].any(), "there are no others"


@pytest.mark.parametrize("kinds", [(WeightType.Q4_K, WeightType.Q6_K), (WeightType.MXFP4, WeightType.Q8_0)])
def test_sorted_products_are_those_of_each_slot_with_its_expert(
    image_of: Images, kinds: tuple[WeightType, WeightType]
) -> None:
    tokens, rows = 50, 160
    indices = np.argsort(np.random.default_rng(5).random((tokens, EXPERTS)))[:, :USED].astype("f4")
    indices[:, 0] = 2  # more than a tile of one expert
    indices[:, 1:][indices[:, 1:] == 2] = 5
    slots, tiles = sorted_slots(image_of, indices, EXPERTS)
    gate, up = (experts_of(kind, rows, HIDDEN, seed) for seed, kind in enumerate(kinds))
    x, bias, room = normal(tokens, HIDDEN) * 3, normal(EXPERTS, rows), Out((tokens * USED, rows))

    def multiply(x: np.ndarray, of_token: int, orders: int) -> list[np.ndarray]:
        parts = Struct((matrix(gate), room, bias, room)), Struct((matrix(up), room, None, None)), NOWHERE
        return image_of("prefill").run(
            "matmul_q8", (4, len(tiles)), 256, *parts, activations(x, values=False), None, None, tokens * USED, rows,
            Struct((slots, tiles, rows, of_token)), Struct((None, None, 1 << 20)), orders=orders,
        )  # fmt: skip

    gates, biased, ups = multiply(x, USED, 3)
    own = indices.reshape(-1).astype(int)
    for found, weight in ((gates, gate), (ups, up)):
        of_experts = [rounded(x, weight, "q8") @ wide(weight.expert(expert)).T for expert in range(EXPERTS)]
        expected = np.stack([of_experts[expert][slot // USED] for slot, expert in enumerate(own)])
        assert relative(found, expected) <= 5e-7
    np.testing.assert_array_equal(biased, gates + bias[own])
    of_slots = multiply(np.repeat(x, USED, 0), 1, 1)
    np.testing.assert_array_equal(of_slots[0], gates)


VARIANTS = [
    WeightType[name.removeprefix("expert_down_q8_").upper()]
    for name in kernel_names(resources.kernels() / "experts.cu")
    if re.match("expert_down_q8_", name)
]


@pytest.mark.parametrize("kind", VARIANTS, ids=str)
def test_kernels_of_one_type_give_the_bits_of_those_of_all_types(image_of: Images, kind: WeightType) -> None:
    gate, up, down = experts_of(kind, FFN, HIDDEN, 1), experts_of(kind, FFN, HIDDEN, 2), experts_of(kind, 32, HIDDEN, 3)
    run, shape = image_of("experts").run, (TOKENS, USED, FFN)
    outputs = Struct((*(Out(shape) for _ in range(4)), q8_out(TOKENS * USED * FFN), 0))
    chosen = Struct((INDICES, None, None, None, None, FFN, USED))
    x = activations(normal(TOKENS, HIDDEN))
    of_down = Struct((INDICES, None, None, None, None, 32, USED))
    into_down, output = activations(normal(TOKENS, USED * HIDDEN)), Struct((Out((TOKENS, USED, 32)), None, None))

    def made(name: str, down_name: str) -> list[np.ndarray]:
        first = run(name, (2, USED, TOKENS), 256, matrix(gate), matrix(up), x, outputs, chosen, orders=1)
        return first + run(down_name, (2, USED, TOKENS), 256, matrix(down), into_down, of_down, output, orders=1)

    of_all = made("expert_gate_up_q8", "expert_down_q8")
    of_one = made(variant("expert_gate_up_q8", kind), variant("expert_down_q8", kind))
    for one, other in zip(of_all, of_one, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("columns", [32, 4128])
def test_the_sum_of_experts_goes_into_the_residual_stream_or_stands_alone(image_of: Images, columns: int) -> None:
    x, shares, residual = normal(2, 3, columns), normal(2, 3, seed=2), normal(2, columns, seed=3)
    expected = ops.combine_experts(x.reshape(2, -1), shares)
    no_norm = Struct((None, None, Struct((None, None)), None, 0.0))
    run, threads = image_of("residual").run, min(1024, 32 * -(-columns // 128))

    def given(residual: np.ndarray | None, total: Out | None) -> Struct:
        return Struct((x, shares, Out((2, columns)), None, None, None, None, residual, total, columns, 3, 1e-6))

    combined, total = run("add_to_residual", (2,), threads, given(residual, Out((2, columns))), no_norm)
    assert relative(combined, expected) <= 3e-7
    np.testing.assert_array_equal(total, residual + combined)
    (alone,) = run("add_to_residual", (2,), threads, given(None, None), no_norm)
    np.testing.assert_array_equal(alone, combined)
