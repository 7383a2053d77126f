"""Layer and stage of a node, by what it consumes and by what the engine calls it."""

from __future__ import annotations

import pytest

from aprtui.recordings.format import OpGraph, OpNode, Root, RootKind, TensorView
from aprtui.recordings.stages import NodeNames

DENSE = (
    "token_embd.weight", "output_norm.weight", *(
        f"blk.{layer}.{name}.weight" for layer in range(13)
        for name in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up",
                     "ffn_down")
    ),
)  # fmt: skip


def graph(*weights: str, called: tuple[str, ...] = ()) -> OpGraph:
    """A graph that has these weights, the tensor of each at its index, and others with the names `called`."""
    roots = [Root(RootKind.WEIGHT, 4, name) for name in weights] + [Root(RootKind.SCRATCH, 4)]
    tensors = [TensorView(index, 0, (1,), (4,), "f32", name) for index, name in enumerate(weights)]
    tensors += [TensorView(len(weights), 0, (1,), (4,), "f32", name) for name in called]
    return OpGraph("", 0, 1, tuple(roots), tuple(tensors), ())


@pytest.mark.parametrize(
    ("name", "op", "weight", "expected"),
    [
        ("Qcur-12", "MUL_MAT", "blk.12.attn_q.weight", "layer 12 qkv_matmul (Qcur-12)"),
        ("Qcur-12", "ROPE", "", "layer 12 q_post_rope (Qcur-12)"),
        ("ffn_inp-3", "ADD", "", "layer 3 post_attn_residual (ffn_inp-3)"),
        ("ffn_swiglu-3", "GLU", "", "layer 3 ffn_swigl (ffn_swiglu-3)"),
        ("ffn_out-3", "MUL_MAT", "blk.3.ffn_down.weight", "layer 3 ffn_out (ffn_out-3)"),
        ("kqv_out-3", "CONT", "", "layer 3 attention (kqv_out-3)"),
        ("attn_out-3", "MUL_MAT", "blk.3.attn_output.weight", "layer 3 attn_out (attn_out-3)"),
        ("result_norm", "MUL", "output_norm.weight", "final_norm (result_norm)"),
        ("result_output", "MUL_MAT", "token_embd.weight", "lm_head (result_output)"),
        ("embd", "GET_ROWS", "token_embd.weight", "layer 0 embedding (embd)"),
        ("norm-10", "RMS_NORM", "", "norm-10"),
        ("model.layers.4.input_layernorm", "aten.mul.Tensor", "",
         "layer 4 attn_norm (model.layers.4.input_layernorm)"),
        ("model.norm", "aten.mul.Tensor", "", "final_norm (model.norm)"),
        ("model.layers.4.mlp", "aten.mul.Tensor", "", "model.layers.4.mlp"),
        ("node_17", "ADD", "", "node_17"),
    ],
)  # fmt: skip
def test_a_node_has_the_name_of_its_place(name: str, op: str, weight: str, expected: str) -> None:
    known = graph(*DENSE)
    sources = (DENSE.index(weight),) if weight else ()
    assert str(NodeNames(known).name(OpNode(op, sources, (), (), name))) == expected


@pytest.mark.parametrize(
    ("weights", "op", "at", "stage", "parts"),
    [
        (("blk.0.attn_qkv.weight", "blk.0.ffn_up.weight"), "MUL_MAT", 0, "qkv_matmul", 1),
        (("blk.0.ffn_up.weight", "blk.0.ffn_up.bias"), "ADD", 1, "ffn_up", 1),
        (("blk.0.attn_norm.weight", "blk.0.attn_norm.bias"), "ADD", 1, "attn_norm", 1),
        (("blk.0.post_attention_norm.weight",), "MUL", 0, "ffn_norm", 1),
        (("blk.0.post_attention_norm.weight", "blk.0.ffn_norm.weight"), "MUL", 0, "attn_post_norm", 1),
        (("blk.0.attn_output.weight", "blk.0.attn_output.bias"), "ADD", 1, "attn_out", 1),
        (("blk.0.ffn_up.weight", "blk.0.ffn_up.scale", "blk.0.ffn_up.bias"), "MUL", 1, "ffn_up", 1),
        (("blk.0.post_attention_norm.weight", "blk.0.post_ffw_norm.weight"), "MUL", 0, "attn_post_norm", 1),
        (("blk.0.attn_output.weight", "blk.0.attn_output.scale"), "MUL", 1, "attn_out", 1),
        (("blk.0.attn_q.weight", "blk.0.attn_q.scale", "blk.0.attn_q.bias"), "MUL", 1, "qkv_matmul", 3),
        (("blk.0.attn_q.weight", "blk.0.attn_q.scale", "blk.0.attn_q.bias"), "ADD", 2, "qkv_bias", 3),
        (("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"), "MUL_MAT", 2, "qkv_matmul", 3),
    ],
)  # fmt: skip
def test_the_weights_of_an_unknown_architecture_tell_its_stages(
    weights: tuple[str, ...], op: str, at: int, stage: str, parts: int
) -> None:
    found = [place for place in NodeNames(graph(*weights)).places(OpNode(op, (at,), (), ())) if not place.takes_input]
    assert [(place.node.stage, place.node.layer, place.parts) for place in found] == [(stage, 0, parts)]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (("blk.0.ffn_up.weight", "blk.0.ffn_gate.weight"), "ffn_swigl"),
        (("blk.0.ffn_gate_inp.weight", "blk.0.ffn_up_shexp.weight", "blk.0.ffn_gate_shexp.weight"), "ffn_shexp_swiglu"),
    ],
)
def test_one_name_of_several_stages_means_that_whose_weights_are_there(weights: tuple[str, ...], expected: str) -> None:
    name = NodeNames(graph(*weights)).name(OpNode("GLU", (), (), (), "ffn_swiglu-0"))
    assert (name.layer, name.stage) == (0, expected)


def test_a_product_that_holds_gate_and_up_is_neither() -> None:
    known = graph("blk.0.ffn_up.weight", "blk.0.ffn_down.weight", called=("ffn_swiglu-0",))
    assert str(NodeNames(known).name(OpNode("MUL_MAT", (0,), (), (), "ffn_up-0"))) == "ffn_up-0"
    assert NodeNames(known).name(OpNode("GLU", (), (), (), "ffn_swiglu-0")).stage == "ffn_swigl"
    plain = graph("blk.0.ffn_up.weight", "blk.0.ffn_down.weight")
    assert NodeNames(plain).name(OpNode("MUL_MAT", (0,), (), (), "ffn_up-0")).stage == "ffn_up"


def test_a_stage_that_the_recording_states_comes_first() -> None:
    names = NodeNames(graph(*DENSE), {"h{layer}.mix": "attention", "logits": "lm_head"})
    assert str(names.name(OpNode("CONT", (), (), (), "h7.mix"))) == "layer 7 attention (h7.mix)"
    assert str(names.name(OpNode("CONT", (), (), (), "logits"))) == "lm_head (logits)"
    assert [place.node.stage for place in names.places(OpNode("CONT", (), (), (), "h7.mix"))] == ["attention"]
