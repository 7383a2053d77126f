"""Mapping files: what they can say, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.errors import UsageError
from aprtui.importing.elements import ELEMENTS, SourceTensor
from aprtui.importing.mapping import as_document, read_mapping_file
from aprtui.importing.planning import plan, values_of
from aprtui.trace.graph.stage import Node


def stored(name: str, values: NDArray[np.float32]) -> SourceTensor:
    return SourceTensor(name, values.shape, ELEMENTS["F32"], lambda: values.astype("<f4").reshape(-1).view(np.uint8))


def made(folder: Path, text: str, **arrays: NDArray[np.float32]) -> dict[Node, NDArray[np.float32]]:
    """What a mapping makes of arrays."""
    (folder / "map.yaml").write_text(text)
    tensors = {name: stored(name, values) for name, values in arrays.items()}
    found = plan(read_mapping_file(folder / "map.yaml"), tensors)
    return {node: values_of(node, ingredient) for node, ingredient in found.nodes.items()}


def numbers(*shape: int) -> NDArray[np.float32]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_layers_are_counted_from_where_the_tool_counts(tmp_path: Path) -> None:
    text = "layers: {first: 1}\nstages: {attn_norm: 'l{layer}_n'}"
    found = made(tmp_path, text, l1_n=numbers(3, 4), l12_n=numbers(3, 4), l0_n=numbers(3, 4))
    assert set(found) == {Node(0, "attn_norm"), Node(11, "attn_norm")}


def test_two_tensors_are_added_and_three_stand_side_by_side(tmp_path: Path) -> None:
    text = """
stages:
  post_ffn_residual: {sum: ["l{layer}_h", "l{layer}_r"]}
  qkv_matmul: {concatenate: ["l{layer}_q", "l{layer}_k", {sum: ["l{layer}_h", "l{layer}_r"]}]}
"""
    h, r, q, k = numbers(3, 4), 2 * numbers(3, 4), numbers(3, 8), numbers(3, 2)
    found = made(tmp_path, text, l0_h=h, l0_r=r, l0_q=q, l0_k=k, l1_h=h)
    assert set(found) == {Node(0, "post_ffn_residual"), Node(0, "qkv_matmul")}, "layer 1 has no residual"
    assert np.array_equal(found[Node(0, "post_ffn_residual")], h + r)
    assert np.array_equal(found[Node(0, "qkv_matmul")], np.concatenate([q, k, h + r], 1))


def test_axes_say_what_is_where(tmp_path: Path) -> None:
    text = """
stages:
  k_post_rope: {from: "k{layer}", axes: [batch, head, token, channel], batch: 1}
  attn_norm: {from: "n{layer}", axes: [channel, token], slice: {channel: [1, 3]}}
  attn_softmax: {from: "p{layer}", axes: [query, one, head, key]}
  ffn_norm: "f{layer}"
"""
    k, n, p, f = numbers(2, 4, 3, 2), numbers(5, 3), numbers(3, 1, 4, 3), numbers(1, 1, 3, 5)
    found = made(tmp_path, text, k0=k, n0=n, p0=p, f0=f)
    assert np.array_equal(found[Node(0, "k_post_rope")], k[1].swapaxes(0, 1).reshape(3, 8))
    assert np.array_equal(found[Node(0, "attn_norm")], n.T[:, 1:3])
    assert np.array_equal(found[Node(0, "attn_softmax")], p[:, 0].swapaxes(0, 1))
    assert np.array_equal(found[Node(0, "ffn_norm")], f[0, 0])


def test_an_axis_may_count_the_layers(tmp_path: Path) -> None:
    text = """
stages:
  embedding: {from: states, axes: [layer, token, channel], slice: {layer: [0, 1]}}
  post_ffn_residual: {from: states, axes: [layer, token, channel], slice: {layer: [1, 4]}}
  attn_out: {sum: [{from: inner, axes: [token, layer, channel]}, {from: inner, axes: [token, layer, channel]}]}
  ffn_out: {from: inner, axes: [token, layer, channel], slice: {layer: [2, 3]}, layer: 7}
"""
    states, inner = numbers(4, 3, 5), numbers(3, 3, 5)
    found = made(tmp_path, text, states=states, inner=inner)
    assert {node.layer for node in found if node.stage == "post_ffn_residual"} == {0, 1, 2}
    assert np.array_equal(found[Node(0, "embedding")], states[0])
    for layer in range(3):
        assert np.array_equal(found[Node(layer, "post_ffn_residual")], states[layer + 1])
        assert np.array_equal(found[Node(layer, "attn_out")], 2 * inner[:, layer])
    assert np.array_equal(found[Node(7, "ffn_out")], inner[:, 2])


def test_a_rule_may_end_before_the_last_number(tmp_path: Path) -> None:
    text = "stages: {post_ffn_residual: {from: 'h{layer}', first: 1, end: 3}, final_norm: 'h3'}"
    found = made(tmp_path, text, **{f"h{number}": numbers(2, 2) + number for number in range(4)})
    assert set(found) == {Node(0, "post_ffn_residual"), Node(1, "post_ffn_residual"), Node(None, "final_norm")}


def test_pairs_of_channels_go_from_halves_to_neighbours_and_back(tmp_path: Path) -> None:
    text = "stages: {{q_post_rope: {{from: 'q{{layer}}', pairs: {}, head_dim: 4}}}}"
    halves = np.array([[0, 1, 10, 11, 20, 21, 30, 31]], np.float32)
    neighbours = np.array([[0, 10, 1, 11, 20, 30, 21, 31]], np.float32)
    node = Node(0, "q_post_rope")
    assert np.array_equal(made(tmp_path, text.format("to-neighbours"), q0=halves)[node], neighbours)
    assert np.array_equal(made(tmp_path, text.format("to-halves"), q0=neighbours)[node], halves)


def test_pieces_by_token_follow_one_another_by_their_number(tmp_path: Path) -> None:
    text = "stages: {attn_norm: 'step{token}*l{layer}', lm_head: 'out'}"
    steps = {f"step{number}/x/l0": numbers(1, 4) + number for number in range(12)}
    found = made(tmp_path, text, **steps, out=numbers(7))
    assert np.array_equal(found[Node(0, "attn_norm")], np.concatenate([steps[f"step{n}/x/l0"] for n in range(12)]))
    assert found[Node(None, "lm_head")].shape == (1, 7)


def test_a_stage_that_lacks_a_piece_is_left_out_and_said(tmp_path: Path) -> None:
    """Its rows would be those of other tokens."""
    (tmp_path / "map.yaml").write_text(
        "stages: {attn_norm: 'p{token}/a{layer}', ffn_norm: 'p{token}/f{layer}', lm_head: 'p{token}/out'}"
    )
    names = [*(f"p{n}/{part}" for n in range(3) for part in ("a0", "a1", "f0")), "p2/out"]
    tensors = {name: stored(name, numbers(1, 4)) for name in names if name != "p1/a1"}
    found = plan(read_mapping_file(tmp_path / "map.yaml"), tensors)
    assert set(found.nodes) == {Node(0, "attn_norm"), Node(0, "ffn_norm"), Node(None, "lm_head")}
    assert found.missing == ("1 stage tensors lack some of the 3 pieces, as layer 1 attn_norm: left out",)
    assert values_of(Node(0, "ffn_norm"), found.nodes[Node(0, "ffn_norm")]).shape == (3, 4)


def test_nan_keeps_its_payload_through_everything_but_a_sum(tmp_path: Path) -> None:
    text = "stages: {attn_norm: {concatenate: [{from: 'a{layer}', axes: [channel, token]}, 'b{layer}']}}"
    a = np.array([0x7FC00123, 0xFF800001, 0x80000000, 0x00000001], np.uint32).view(np.float32).reshape(2, 2)
    found = made(tmp_path, text, a0=a, b0=a)[Node(0, "attn_norm")]
    assert np.array_equal(found.view(np.uint32), np.concatenate([a.T, a], 1).view(np.uint32))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "the field stages is missing"),
        ("stages: {attn_nrom: 'a{layer}'}", "no such stage"),
        ("stages: {attn_norm: 'a'}", "put {layer} into the name"),
        ("stages: {attn_norm: {from: 'a{layer}', layer: 1}}", "put {layer} into the name"),
        ("stages: {lm_head: 'a{layer}'}", "once for the model"),
        ("stages:\n  attn_norm: 'a{layer}'\n  attn_norm: 'b{layer}'", "'attn_norm' stands in line 2, too"),
        ("stages: {attn_norm: {from: 'a{layer}', axes: [layer, token]}}", "counted by the name, and by an axis"),
        ("stages: {attn_norm: {from: 'a{layer}', first: 2, end: 2}}", "a number behind first"),
        ("stages: {attn_norm: {from: a, axes: [layer, token, channel], first: 1}}", "an axis counts the layers"),
        ("stages: {attn_norm: {from: 'a', layer: 0, end: 2}}", "no {layer} in the name"),
        ("stages: {attn_norm: {form: 'a{layer}'}}", "no field 'form'"),
        ("stages: {attn_norm: {sum: ['a{layer}']}}", "2 …"),
        ("stages: {attn_norm: {from: 'a{layer}', sum: ['a', 'b']}}", "expected one of"),
        ("stages: {attn_norm: {from: 'a{layer}{layer}'}}", "once each"),
        ("stages: {attn_norm: {from: '{layer}****'}}", "3 times"),
        ("stages: {attn_norm: {from: 'a{layer}', axes: [token, width]}}", "expected a list of"),
        ("stages: {attn_norm: {from: 'a{layer}', axes: [token, token]}}", "each axis once"),
        ("stages: {attn_norm: {from: 'a{layer}', slice: {channel: [3, 3]}}}", "takes nothing"),
        ("stages: {attn_norm: {from: 'a{layer}', pairs: to-halves}}", "go together"),
        ("stages: {attn_norm: {from: 'a{layer}', pairs: rotate, head_dim: 4}}", "expected to-neighbours"),
        ("stages: {attn_norm: {from: 'a{layer}', batch: -1}}", "whole number"),
        ("stages: {attn_norm: {from: 3}}", "the name of a tensor"),
        ("stages: {attn_norm: 'a{layer}'}\ntokens: [1, -2]", "token ids"),
        ("stages: {attn_norm: 'a{layer}'}\nlayers: {last: 3}", "no field 'last'"),
        ("stages: [attn_norm]", "expected stages"),
        ("stages: {attn_norm: {sum: [{sum: [{sum: [{sum: ['a', 'b']}, 'c']}, 'd']}, 'e{layer}']}}", "nested"),
    ],
)
def test_what_is_wrong_is_said_by_file_and_field(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(UsageError) as error:
        read_mapping_file(tmp_path / "map.yaml")
    assert "map.yaml" in str(error.value) and words in str(error.value)


@pytest.mark.parametrize(
    ("rule", "shape", "words"),
    [
        ("'a{layer}'", (2, 3, 4), "say which axis is which"),
        ("{from: 'a{layer}', axes: [token, channel]}", (3,), "names 2 axes"),
        ("{from: 'a{layer}', axes: [batch, token, channel], batch: 2}", (2, 3, 4), "takes number 2"),
        ("{from: 'a{layer}', axes: [one, token, channel]}", (2, 3, 4), "has 2 entries"),
        ("{from: 'a{layer}', axes: [query, key]}", (3, 4), "has the axes"),
        ("{from: 'a{layer}', slice: {channel: [2, 9]}}", (3, 4), "the rule takes 2…9"),
        ("{from: 'a{layer}', slice: {head: [0, 1]}}", (3, 4), "there is no axis head"),
        ("{from: 'a{layer}', pairs: to-halves, head_dim: 6}", (3, 4), "no heads of 6"),
        ("{sum: ['a{layer}', 'other']}", (3, 4), "differ"),
        ("{concatenate: ['a{layer}', 'other']}", (3, 4), "tokens differ"),
    ],
)
def test_a_shape_that_a_rule_does_not_fit_is_named(
    tmp_path: Path, rule: str, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UsageError, match="layer 0 attn_norm") as error:
        made(tmp_path, f"stages: {{attn_norm: {rule}}}", a0=numbers(*shape), other=numbers(2, 5))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("lm_head: {from: a, axes: [layer, token, channel]}", "one entry of the axis layer, of which the rule takes 2"),
        ("attn_norm: {from: a, axes: [layer, channel]}", "names 2 axes"),
        (
            "attn_norm: {sum: [{from: a, axes: [layer, token, channel]}, {from: b, axes: [layer, token, channel]}]}",
            "tensors of 2 and 3 layers are taken together",
        ),
        ("attn_norm: {from: a, axes: [layer, token, channel], slice: {layer: [1, 3]}}", "the rule takes 1…3"),
    ],
)
def test_an_axis_of_layers_that_does_not_fit_is_named(tmp_path: Path, rule: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        made(tmp_path, f"stages: {{{rule}}}", a=numbers(2, 3, 4), b=numbers(3, 3, 4))
    assert words in str(error.value)


def test_two_tensors_for_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="write a name that means one of them"):
        made(tmp_path, "stages: {attn_norm: 'l{layer}*'}", l0_a=numbers(1), l0_b=numbers(1))
    with pytest.raises(UsageError, match="two rules make it"):
        made(tmp_path, "stages: {attn_norm: ['a{layer}', 'b{layer}']}", a0=numbers(1), b0=numbers(1))


def test_what_a_mapping_says_can_be_written_and_read_again(tmp_path: Path) -> None:
    text = """
stages:
  attn_norm: ["a{layer}", {from: "first", layer: 0}]
  k_post_rope: {from: "k{layer}", axes: [batch, head, token, channel], batch: 1, pairs: to-halves, head_dim: 8}
  qkv_matmul: {concatenate: ["q{layer}", {from: "k{layer}", slice: {channel: [0, 4]}}], first: 1, end: 9}
  attn_out: {from: all, axes: [layer, token, channel], slice: {layer: [1, 4]}}
tokens: ids
"""
    first, again = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(text)
    mapping = read_mapping_file(first)
    again.write_text(str(as_document(mapping)))
    assert read_mapping_file(again) == mapping


def test_another_sequence_of_the_batch_is_taken_by_every_rule(tmp_path: Path) -> None:
    text = (
        "stages: {attn_norm: {from: 'n{layer}', axes: [batch, token, channel]}, ffn_norm: 'f{layer}', qkv_matmul: "
        "{concatenate: [{from: 'q{layer}', axes: [batch, token, channel]}, 'k{layer}']}}"
    )
    (tmp_path / "map.yaml").write_text(text)
    mapping = read_mapping_file(tmp_path / "map.yaml").of_sequence(1)
    arrays = {"n0": numbers(2, 3, 4), "f0": numbers(3, 4), "q0": numbers(2, 3, 4), "k0": numbers(3, 4)}
    found = plan(mapping, {name: stored(name, values) for name, values in arrays.items()})
    made_of = {node.stage: values_of(node, ingredient) for node, ingredient in found.nodes.items()}
    np.testing.assert_array_equal(made_of["attn_norm"], arrays["n0"][1])
    np.testing.assert_array_equal(made_of["ffn_norm"], arrays["f0"])
    np.testing.assert_array_equal(made_of["qkv_matmul"], np.hstack([arrays["q0"][1], arrays["k0"]]))


def test_a_sequence_is_refused_where_no_axis_counts_them(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("stages: {attn_norm: 'n{layer}'}")
    with pytest.raises(UsageError, match="no axis of the mapping counts sequences"):
        read_mapping_file(tmp_path / "map.yaml").of_sequence(1)
