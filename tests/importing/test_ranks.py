"""Ranks of one model: put together they are the capture that was divided, and a rank that parts is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprtui.errors import UsageError
from aprtui.importing.dims import Sharing, parse_dims
from aprtui.importing.ranks.copies import CopyState, compare_copies, honest_bound, unit_roundoff
from aprtui.importing.ranks.gather import Held, SharedAxis, part_widths, put_together
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.importing.dumps import EXACT, TOKENS, Ours, ours, require_same
from tests.importing.rank_folders import (
    TENSOR_PARALLEL,
    Array,
    Fault,
    description,
    honest,
    write_rank,
    write_ranks,
)

Command = Callable[..., Outcome]
QUICKLY = ("--rounding", EXACT, "--backend", "numpy", "--stage", "ffn_*,final_norm", "--layers", "1")


def described(ours: Ours, folder: Path, tp: int, pp: int = 1, fault: Fault = honest) -> Path:
    """Ranks that say themselves how they share their stages."""
    write_ranks(ours, folder, tp, pp, fault)
    (folder / "aprtui-ranks.yaml").write_text(description(TENSOR_PARALLEL, tp=tp, pp=pp))
    return folder


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (2, 2), (4, 2)])
def test_ranks_put_together_are_what_was_divided(
    qwen2: Ours, tmp_path: Path, aprtui: Command, tp: int, pp: int
) -> None:
    """With tp 4, two ranks have the same head of K and V."""
    folder = described(qwen2, tmp_path / "ranks", tp, pp)
    done = aprtui("ranks", folder, "--model", qwen2.model.path, "--out", tmp_path / "whole")
    assert done.code == 0 and "PASS  copies of" in done.out and "are equal" in done.out, done
    found, summed = Capture.open(tmp_path / "whole"), {Node(layer, "ffn_out") for layer in range(2)}
    assert set(found.files) == set(qwen2.capture.files) and found.tokens == TOKENS
    for node in found.files:
        own, values = qwen2.values(node.layer, node.stage), found.values(node).reshape(-1)
        same = np.allclose(own.reshape(-1), values, rtol=1e-5, atol=1e-5) if node in summed else np.array_equal(
            own.reshape(-1).view(np.uint32), values.view(np.uint32)
        )  # fmt: skip
        assert same, node


@pytest.mark.slow
def test_replay_takes_described_ranks_and_names_the_rank_whose_part_is_wrong(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    def fault(rank: int, node: Node, values: Array) -> Array:
        return values * np.float32(1.02) if rank == 3 and node == Node(1, "ffn_up") else values

    folder = described(qwen2, tmp_path / "ranks", 2, 2, fault)
    judged = aprtui("replay", folder, "--model", qwen2.model.path, *QUICKLY)
    assert judged.code == 1 and "4 ranks put together" in judged.err, judged
    text = " ".join(judged.out.split())
    assert (
        "layer 1 ffn_up" in text and "looks like the part of one rank: rank 2" in text and "rank 3 rel_l2 0.02" in text
    )


@pytest.mark.parametrize("tp", [2, 4])
def test_a_rank_whose_copy_differs_is_named_with_stage_and_layer(
    qwen2: Ours, tmp_path: Path, aprtui: Command, tp: int
) -> None:
    def fault(rank: int, node: Node, values: Array) -> Array:
        return values * np.float32(1.001) if rank == 1 and node == Node(1, "ffn_norm") else values

    folder = described(qwen2, tmp_path / "ranks", tp, 1, fault)
    done = aprtui("ranks", folder, "--model", qwen2.model.path, "--json")
    summary = json.loads(done.out.splitlines()[-1])
    assert done.code == 1 and summary["verdict"] == "FAIL", done
    named = "rank 1 parts at layer 1 ffn_norm" if tp == 4 else "ranks 0 and 1 part at layer 1 ffn_norm"
    assert summary["headline"].replace("rank 0 and rank 1", "ranks 0 and 1").startswith(named)
    assert ("nothing here says which is right" in summary["headline"]) == (tp == 2)
    (record,) = [r for r in map(json.loads, done.out.splitlines()) if r.get("copies") == "parts"]
    assert (record["layer"], record["stage"], record["parting"]) == (1, "ffn_norm", [1])


def test_ranks_that_part_never_pass_a_replay(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    def fault(rank: int, node: Node, values: Array) -> Array:
        return values * np.float32(1.01) if rank == 2 and node == Node(None, "final_norm") else values

    folder = described(qwen2, tmp_path / "ranks", 4, 1, fault)
    judged = aprtui("replay", folder, "--model", qwen2.model.path, *QUICKLY)
    assert judged.code == 125 and "rank 2 parts at final_norm" in " ".join(judged.out.split()), judged


def test_what_is_not_described_is_refused_with_what_would_settle_it(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    folder = write_ranks(qwen2, tmp_path / "ranks", 2)
    done = aprtui("ranks", folder, "--model", qwen2.model.path)
    assert done.code == 2 and "give groups: {tp: 2}" in done.err and done.err.count("\n") == 1
    dims = tmp_path / "dims.yaml"
    dims.write_text(description({"embedding": "t h # tp:replicated", "attn_norm": "t h"}, tp=2))
    done = aprtui("ranks", folder, "--model", qwen2.model.path, "--dims", dims)
    assert done.code == 2 and "say nothing of tp, of 2 ranks" in done.err
    dims.write_text(description({**TENSOR_PARALLEL, "qkv_*": "t h[tp]"}, tp=2))
    done = aprtui("ranks", folder, "--model", qwen2.model.path, "--dims", dims)
    assert done.code == 2 and 'write "t (q+k+v)[tp]"' in done.err
    dims.write_text(description({"*norm": "t h # tp:replicated", "embedding": "t h # tp:replicated"}, tp=2))
    done = aprtui("ranks", folder, "--model", qwen2.model.path, "--dims", dims)
    assert done.code == 2 and 'qkv_matmul: "t (q+k+v)[tp]" or "t h # tp:replicated"' in done.err
    assert aprtui("replay", folder, "--model", qwen2.model.path).code == 2


def test_layers_that_each_stage_of_a_pipeline_counts_for_itself_are_not_taken_for_copies(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    folder = write_ranks(qwen2, tmp_path / "ranks", 1, 2)
    shutil.rmtree(folder / "rank-1" / "layer-1")
    own = {node: qwen2.values(1, node.stage) for node in qwen2.capture.files if node.layer == 1}
    write_rank(folder / "rank-1", {Node(0, node.stage): values for node, values in own.items()})
    replicated = {"attn_s*": "h q k", "*": "t h"}
    dims = tmp_path / "dims.yaml"
    dims.write_text(description(replicated, pp=2))
    done = aprtui("ranks", folder, "--model", qwen2.model.path, "--dims", dims)
    assert done.code == 2 and "do they count their own layers? then give first_layers" in done.err
    dims.write_text(description(replicated, pp=2) + "first_layers: [0, 1]\n")
    done = aprtui("ranks", folder, "--model", qwen2.model.path, "--dims", dims, "--out", tmp_path / "whole")
    assert done.code == 125 and "no stage is there on several ranks" in done.out
    require_same(qwen2, tmp_path / "whole", set(qwen2.capture.files))


def test_a_guess_says_what_proves_it_and_leaves_the_rest_as_comments(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    folder, dims = write_ranks(qwen2, tmp_path / "ranks", 4, 2), tmp_path / "dims.yaml"
    done = aprtui("ranks", folder, "--guess", "--model", qwen2.model.path, "--write-dims", dims)
    assert done.code == 0, done
    assert "groups: {tp: 4, pp: 2}  # likely: ranks hold layers in 2 runs of 4" in done.out
    assert 'attn_norm: "t h # tp:replicated"  # sure: equal to the bit on 4 ranks' in done.out
    assert 'ffn_out: "t h[tp:partial]"  # sure: the sum is what is added to the residual' in done.out
    assert 'qkv_bias: "t (q+k+v)[tp]"  # sure: 64 + 64 + 64 of 256 + 128 + 128, 2 neighbours hold the same' in done.out
    assert aprtui("ranks", folder, "--dims", dims, "--model", qwen2.model.path).code == 0
    assert "needs the widths of the model: give --model" in aprtui("ranks", folder, "--guess").err


def zigzag(values: Array, ranks: int, number: int) -> Array:
    """The two chunks of a rank, of tokens that are padded to a multiple of the chunks."""
    padded = np.concatenate([values, np.full((-len(values) % (2 * ranks), *values.shape[1:]), 7, np.float32)])
    chunks = np.split(padded, 2 * ranks)
    return np.concatenate([chunks[number], chunks[2 * ranks - 1 - number]])


def test_tokens_from_both_ends_come_back_in_their_order_without_padding(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    stages = ("embedding", "attn_norm", "post_ffn_residual", "final_norm")
    nodes = [node for node in qwen2.capture.files if node.stage in stages]
    for number in range(4):
        write_rank(tmp_path / f"rank{number}", {n: zigzag(qwen2.values(n.layer, n.stage), 4, number) for n in nodes})
    (tmp_path / "aprtui-ranks.yaml").write_text(description({"*": "s[cp:zigzag] h"}, cp=4))
    done = aprtui("ranks", tmp_path, "--model", qwen2.model.path, "--out", tmp_path / "whole")
    assert done.code == 125 and "rows of padding are left out of 6 stage tensors, 4 of layer 0 embedding" in done.err, (
        done
    )
    require_same(qwen2, tmp_path / "whole", set(nodes))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return ours(tmp_path_factory.mktemp("mixture"), "qwen3moe")


def expert_share(mixture: Ours, node: Node, number: int, ranks: int) -> Array:
    """What a rank with every `ranks`-th part of the experts has: zeros in place of others' rows, and its terms."""
    values, config = mixture.values(node.layer, node.stage), mixture.model.config.graph
    if not node.stage.startswith(("ffn_moe_gate", "ffn_moe_up", "ffn_moe_s", "ffn_moe_down", "moe_ffn_out")):
        return values
    choices = mixture.values(node.layer, "moe_router_indices")
    own = choices // (config.experts // ranks) == number
    if node.stage != "moe_ffn_out":
        rows = values.reshape(len(values), choices.shape[1], -1)
        return np.asarray((rows * own[:, :, None]).reshape(len(values), -1), np.float32)
    down = mixture.values(node.layer, "ffn_moe_down").reshape(len(values), choices.shape[1], -1)
    weights = mixture.values(node.layer, "ffn_moe_weights_norm") * own
    return np.asarray((down * weights[:, :, None]).sum(1), np.float32)


EXPERT_PARALLEL = {
    "attn_s*": "h q k # ep:replicated", "ffn_moe_gate": "t k h[ep:partial]", "ffn_moe_up": "t k h[ep:partial]",
    "ffn_moe_s*": "t k h[ep:partial]", "ffn_moe_down": "t k h[ep:partial]", "moe_ffn_out": "t h[ep:partial]",
    "*": "t h # ep:replicated",
}  # fmt: skip


def test_experts_over_ranks_are_added_up(mixture: Ours, tmp_path: Path, aprtui: Command) -> None:
    for number in range(2):
        held = {node: expert_share(mixture, node, number, 2) for node in mixture.capture.files}
        write_rank(tmp_path / f"rank-{number}", held)
    (tmp_path / "aprtui-ranks.yaml").write_text(description(EXPERT_PARALLEL, ep=2))
    done = aprtui("ranks", tmp_path, "--model", mixture.model.path, "--out", tmp_path / "whole")
    assert done.code == 0, done
    found = Capture.open(tmp_path / "whole")
    assert set(found.files) == set(mixture.capture.files)
    for node in found.files:
        own = mixture.values(node.layer, node.stage)
        assert np.allclose(own.reshape(-1), found.values(node).reshape(-1), rtol=1e-5, atol=1e-5), node


def test_experts_that_each_rank_holds_for_all_tokens_are_those_that_tokens_chose(
    mixture: Ours, tmp_path: Path, aprtui: Command
) -> None:
    config = mixture.model.config.graph
    choices = mixture.values(0, "moe_router_indices").astype(int)
    rows = mixture.values(0, "ffn_moe_down").reshape(len(TOKENS), choices.shape[1], -1)
    by_expert = np.zeros((len(TOKENS), config.experts, rows.shape[2]), np.float32)
    np.put_along_axis(by_expert, choices[:, :, None], rows, 1)
    for number, part in enumerate(np.split(by_expert, 2, 1)):
        tensors = {Node(0, "ffn_moe_down"): part.reshape(len(TOKENS), -1)}
        tensors[Node(0, "moe_router_indices")] = choices.astype(np.float32)
        write_rank(tmp_path / f"rank-{number}", tensors)
    stages = {"ffn_moe_down": "t e[ep] h", "*": "t k # ep:replicated"}
    (tmp_path / "aprtui-ranks.yaml").write_text(description(stages, ep=2))
    done = aprtui("ranks", tmp_path, "--model", mixture.model.path, "--out", tmp_path / "whole")
    assert done.code == 0, done
    require_same(mixture, tmp_path / "whole", {Node(0, "ffn_moe_down"), Node(0, "moe_router_indices")})


@pytest.mark.parametrize("near", [True, False])
def test_another_choice_of_experts_is_a_fault_only_where_probabilities_are_apart(
    mixture: Ours, tmp_path: Path, aprtui: Command, near: bool
) -> None:
    """Rank 1 has the last two choices of a token the other way round."""
    router, choices = mixture.values(0, "moe_router"), mixture.values(0, "moe_router_indices")
    last, before = (int(choices[3, place]) for place in (-1, -2))
    if near:
        router[3, last] = router[3, before] * np.float32(1 - 1e-7)
    other, swapped = router.copy(), choices.copy()
    if near:
        other[3, last], other[3, before] = router[3, before], router[3, last]
    swapped[3, [-1, -2]] = choices[3, [-2, -1]]
    for number, held in enumerate(((router, choices), (other, swapped), (router, choices))):
        nodes = (Node(0, "moe_router"), Node(0, "moe_router_indices"))
        write_rank(tmp_path / f"rank-{number}", dict(zip(nodes, held, strict=True)))
    (tmp_path / "aprtui-ranks.yaml").write_text(description({"*": "t e # ep:replicated"}, ep=3))
    done = aprtui("ranks", tmp_path, "--model", mixture.model.path)
    assert done.code == (0 if near else 1), done
    assert near or "rank 1 parts at layer 0 moe_router_indices: chooses other experts at token 3" in done.out


def test_dims_are_read_as_sglang_writes_them() -> None:
    dims = parse_dims("b s[cp:zigzag,sp] (heads*dim)[tp:partial] 1 # dp:=attn_dp ep:replicated", "x")
    assert [dim.names for dim in dims.dims] == [("b",), ("s",), ("heads", "dim"), ("1",)]
    assert [(g.name, g.sharing) for g in dims.dims[1].groups] == [("cp", Sharing.ZIGZAG), ("sp", Sharing.PART)]
    assert dims.partial == {"tp"} and dims.replicated == {"ep"} and dims.data_group == "attn_dp"


@pytest.mark.parametrize(
    "text",
    ["", "t t", "t h[tp] d[tp]", "t h[tp] # tp:replicated", "t h[tp:wrong]", "t (h)[tp]", "t h] x", "t h # dp=x",
     "1[tp] h", "t h[cp:zigzag+natural]"],
)  # fmt: skip
def test_dims_that_make_no_sense_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"^file: stages\.x: "):
        parse_dims(text, "file: stages.x")


def test_groups_within_groups_come_apart_from_the_innermost() -> None:
    whole = np.arange(16, dtype=np.float32).reshape(16, 1)
    (dim,) = parse_dims("t[cp,sp]", "x").dims
    held = [
        Held((cp * 2 + sp,), {"cp": cp, "sp": sp}, whole[cp * 8 + sp * 4 : cp * 8 + sp * 4 + 4])
        for cp in range(2)
        for sp in range(2)
    ]
    (found,) = put_together(held, SharedAxis(0, dim.groups))
    assert np.array_equal(found.values, whole)


def test_widths_tell_how_many_neighbours_have_the_same_heads() -> None:
    assert part_widths(192, (256, 128, 128), 4) == ([64, 64, 64], 2)
    assert part_widths(128, (256, 128, 128), 4) == ([64, 32, 32], 1)
    assert part_widths(100, (256, 128, 128), 4) is None
    assert part_widths(64, (128,), 4) == ([64], 2)


def test_copies_by_another_order_of_sums_are_rounding_and_others_are_not() -> None:
    generator = np.random.default_rng(0)
    terms = generator.standard_normal((4, 12, 256)).astype(np.float32)

    def to_bf16(values: Array) -> Array:
        rounded = (values.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)
        return np.asarray(rounded.view(np.float32), np.float32)

    def summed(order: list[int]) -> Array:
        total = to_bf16(terms[order[0]])
        for index in order[1:]:
            total = to_bf16(total + to_bf16(terms[index]))
        return total

    copies = {rank: summed([*range(rank, 4), *range(rank)]) for rank in range(4)}
    unit = unit_roundoff(copies[0])
    assert unit == 2.0**-9
    found = compare_copies(copies, honest_bound(unit, 4, 0, 2), unit)
    assert found.state is CopyState.ROUNDING and found.distance > 0
    copies[2] = to_bf16(copies[2] + to_bf16(terms[0]))  # adds a term twice
    wrong = compare_copies(copies, honest_bound(unit, 4, 0, 2), unit)
    assert (wrong.state, wrong.parting) == (CopyState.PARTS, (2,))


def test_nan_on_one_rank_alone_is_a_rank_that_parts() -> None:
    values = np.ones((3, 8), np.float32)
    values[0, 0] = np.nan
    assert compare_copies({0: values, 1: values.copy()}, 0.1, 2.0**-24).state is CopyState.EQUAL
    other = np.ones((3, 8), np.float32)
    found = compare_copies({0: other, 1: values, 2: other.copy()}, 0.1, 2.0**-24)
    assert (found.state, found.parting) == (CopyState.PARTS, (1,)) and np.isinf(found.distance)
