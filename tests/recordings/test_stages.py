"""Layer and stage of a node, by what the engine calls it."""

from __future__ import annotations

import pytest

from aprtui.recordings.format import OpGraph, OpNode
from aprtui.recordings.stages import node_name


@pytest.mark.parametrize(
    ("name", "op", "expected"),
    [
        ("Qcur-12", "ROPE", "layer 12 q_post_rope (Qcur-12)"),
        ("ffn_inp-3", "ADD", "layer 3 post_attn_residual (ffn_inp-3)"),
        ("norm-10", "RMS_NORM", "layer 10 norm (norm-10)"),
        ("result_norm", "MUL", "final_norm (result_norm)"),
        ("model.layers.4.input_layernorm", "aten.mul.Tensor", "layer 4 attn_norm (model.layers.4.input_layernorm)"),
        ("model.norm", "aten.mul.Tensor", "final_norm (model.norm)"),
        ("node_17", "ADD", "node_17"),
    ],
)
def test_a_node_has_the_name_of_its_place(name: str, op: str, expected: str) -> None:
    node = OpNode(op, (), (), (), name)
    assert str(node_name(OpGraph("", 0, 1, (), (), (node,)), node)) == expected
