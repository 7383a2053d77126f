"""What a token of a 7B model launches: nodes, waves, and enough bytes under way to load the memory of an H200."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import ceil, prod

import pytest

from aprtui.engine.cuda.arguments import ProductsOfPrompt
from aprtui.engine.cuda.driver import Launch
from tests.engine.tiny_model import DEVICE_MODELS
from tests.kernels.estimate import ASSUMED, ENOUGH, estimated, grouped, table
from tests.kernels.launch_plan import (
    MULTIPROCESSORS,
    launches_of_model,
    prompt_launches,
    prompt_launches_of_model,
    token_launches,
)
from tests.kernels.machine_code import Code

CONTEXT, POSITION = 641, 513
WEIGHTS = 4_371_000_000
"""Bytes that a token of Qwen2.5-7B in Q4_K_M reads."""


@pytest.fixture(scope="module")
def launches() -> list[Launch]:
    return token_launches("7b", context=CONTEXT)


def test_a_token_is_five_nodes_a_layer_and_four_more(launches: list[Launch]) -> None:
    assert len(launches) == 28 * 5 + 4
    assert [launch.name for launch in launches].count("rms_norm") == 1, "of the embedding; the sums bring theirs along"
    assert [launch.name for launch in launches][-2:] == ["matvec_q8_1_q6_k", "greedy"]
    assert sum(launch.moved for launch in launches) == pytest.approx(WEIGHTS, rel=0.01)


def test_statistics_of_all_stages_are_three_nodes_more(launches: list[Launch]) -> None:
    counted = [launch.name for launch in token_launches("7b", context=CONTEXT, statistics=True)]
    assert len(counted) == len(launches) + 3
    assert counted[-4:-1] == ["softmax_maps", "stage_statistics", "stage_statistics"]


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("smollm3", [5, 5, 5]),
        ("gemma3", [7, 7, 7]),  # a norm behind attention and feed-forward block
        ("experts", [8, 8]),  # logits and choice of the router, and two products
        ("gpt-oss", [9, 9]),  # and a bias behind the attention
        ("leading dense layer", [5, 11]),  # and a sum with what the shared expert gives
    ],
)
def test_a_layer_of_other_models_takes_a_few_nodes_more(name: str, nodes: list[int]) -> None:
    names = [launch.name for launch in launches_of_model(DEVICE_MODELS[name](), 64)]
    starts = [at for at, one in enumerate(names) if one.startswith("qkv")] + [names.index("greedy")]
    head = 2 if "softcap" in names else 1
    assert [b - a for a, b in pairwise(starts)] == [*nodes[:-1], nodes[-1] + head]


def products_of(shape: str, tokens: int) -> Iterator[tuple[Launch, ProductsOfPrompt]]:
    """The products on tensor cores of a prompt but for the logits, which are wanted of the last token alone."""
    for launch in prompt_launches(shape, tokens):
        given = ProductsOfPrompt.from_buffer_copy(launch.arguments) if launch.name == "matmul_q8" else None
        if given is not None and given.tokens == tokens:
            yield launch, given


def turns(blocks: int, columns: int) -> int:
    """Waves of the blocks of a product, times the 128 columns that a block walks over at a time."""
    return ceil(blocks / (2 * MULTIPROCESSORS)) * ceil(columns / 128)


def test_matrices_of_one_input_and_parts_of_columns_share_the_last_waves_of_a_prompt() -> None:
    now = alone = together = 0
    for launch, given in products_of("7b", 512):
        columns = given.first.w.columns
        tiles = [8 * ceil(one.w.rows / 128) for one in (given.first, given.second, given.third) if one.w.rows]
        now += turns(prod(launch.grid), 128 * given.split.turns)
        together += turns(sum(tiles), columns)
        alone += sum(turns(count, columns) for count in tiles)
    assert (now // 28, together // 28, alone // 28) == (468, 484, 540), "docs/gpu-estimate.md says so"


@pytest.mark.parametrize("shape", ["1.5b", "7b"])
def test_a_short_prompt_has_blocks_for_most_multiprocessors_and_sums_that_no_other_length_changes(shape: str) -> None:
    short, long = ([*products_of(shape, tokens)] for tokens in (32, 512))
    assert all(prod(launch.grid) >= 72 for launch, _ in short)
    assert [given.split.turns for _, given in short] == [given.split.turns for _, given in long]
    for launch, given in (*short, *long):
        parts = launch.grid[2]
        assert 1 <= parts <= 8
        assert (parts - 1) * given.split.turns < ceil(given.first.w.columns / 128) <= parts * given.split.turns


def test_a_prompt_reads_each_expert_once_for_each_64_of_its_tokens() -> None:
    tokens, model = 40, DEVICE_MODELS["gpt-oss"]()
    config = model.config.graph
    names = [launch.name for launch in prompt_launches_of_model(model, tokens)]
    of_experts = ["route", "sort_slots", "matmul_q8", "activate", "matmul_q8", "add_to_residual"]
    starts = [at for at, name in enumerate(names) if name == "route"]
    assert [names[at : at + len(of_experts)] for at in starts] == [of_experts] * config.layers
    products = [
        given
        for launch in prompt_launches_of_model(model, tokens)
        if launch.name == "matmul_q8"
        for given in [ProductsOfPrompt.from_buffer_copy(launch.arguments)]
        if given.sorted.slots
    ]
    slots = tokens * config.experts_used
    assert [(given.tokens, given.sorted.of_token) for given in products] == [(slots, 3), (slots, 1)] * config.layers
    grids = {launch.grid for launch in prompt_launches_of_model(model, tokens) if launch.grid[1] == slots // 64 + 6}
    assert grids == {(2, 7, 1), (1, 7, 1)}, "of one tile an expert, and those that one of them could have more"


def test_attention_has_blocks_for_all_multiprocessors_at_32k() -> None:
    (attention,) = {launch.grid for launch in token_launches("7b", context=32768) if launch.moved_a_position}
    splits, kv_heads, passes = attention
    assert splits * kv_heads * passes >= MULTIPROCESSORS


@pytest.mark.group("nvdisasm")
def test_whoever_reads_4_mb_has_3_mb_under_way(launches: list[Launch], machine_code: dict[str, Code]) -> None:
    large = [launch for _, launch in grouped(launches) if launch.moved > 4_000_000]
    assert len(large) == 7
    for launch in large:
        assert estimated(launch, machine_code, POSITION).under_way >= ENOUGH, launch.name
    for context in (4224, 32768):
        (attention,) = [one for _, one in grouped(token_launches("7b", context=context)) if one.moved_a_position]
        assert estimated(attention, machine_code, context - 128).under_way >= ENOUGH


@pytest.mark.group("nvdisasm")
def test_matrices_of_a_layer_take_one_wave_but_for_gate_and_up(
    launches: list[Launch], machine_code: dict[str, Code]
) -> None:
    waves = {
        (launch.name, launch.moved): estimated(launch, machine_code, POSITION).waves for _, launch in grouped(launches)
    }
    several = {name: found for (name, _), found in waves.items() if found > 1}
    assert set(several) == {"gate_up_q8_q4_k", "matvec_q8_1_q6_k"}
    assert several["gate_up_q8_q4_k"] <= 1.5
    assert several["matvec_q8_1_q6_k"] > 10, "a tail of less than a tenth"


@pytest.mark.group("nvdisasm")
def test_the_estimate_of_a_token_is_no_faster_than_its_bytes(machine_code: dict[str, Code]) -> None:
    rows, seconds = table(machine_code, "7b", CONTEXT, POSITION)
    assert len(rows) == 2 + 11
    assert WEIGHTS / ASSUMED.copy < seconds < 1.45e-3, "docs/gpu-estimate.md says less"
