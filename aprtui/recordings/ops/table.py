"""The ops of ggml that a replay knows, a row each: how it is computed, and where its parameters lie in ggml's words."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from aprtui.recordings.format import OpSet
from aprtui.recordings.memory import Values
from aprtui.recordings.ops import (
    aten,
    attention,
    deepseek,
    elementwise,
    movement,
    norms,
    products,
    recurrent,
    rotary,
    selection,
)
from aprtui.recordings.ops.operands import Operands, OpWay, OpWays

Params = Sequence[tuple[str, str]]
"""Names and kinds of consecutive 32-bit words, `i` or `f`; a name that is empty is left out."""


@dataclass(frozen=True, slots=True)
class OpRow:
    """`compute` gives the ways that an honest engine may compute the op, the most likely first.

    With `chooses` the output are places in the first source.
    """

    compute: Callable[[Operands], OpWays]
    params: Params = ()
    chooses: bool = False


def _one(function: Callable[[Operands], Values]) -> Callable[[Operands], OpWays]:
    """An op that all engines compute alike."""

    def compute(op: Operands) -> OpWays:
        yield OpWay(function(op))

    return compute


_EPSILON: Params = (("epsilon", "f"),)
_FUNCTION: Params = (("function", "i"),)
_PART: Params = tuple((name, "i") for name in ("stride_1", "stride_2", "stride_3", "offset"))
_SHIFTS: Params = tuple((f"shift_{axis}", "i") for axis in range(4))
_PADS: Params = tuple((f"{side}_{axis}", "i") for axis in range(4) for side in ("before", "after"))
_POOL: Params = tuple((name, "i") for name in ("kind", "width", "height", "step_x", "step_y", "before_x", "before_y"))
_KEPT: Params = (("kept_states", "i"),)
_ROPE: Params = (
    ("", "i"), ("dimensions", "i"), ("mode", "i"), ("", "i"), ("original_context", "i"), ("base", "f"), ("scale", "f"),
    ("extrapolation", "f"), ("magnitude", "f"), ("beta_fast", "f"), ("beta_slow", "f"),
    *((f"section_{index}", "i") for index in range(4)), ("first", "i"),
)  # fmt: skip

OPS: Mapping[str, OpRow] = MappingProxyType(
    {
        "ADD": OpRow(_one(elementwise.with_second(np.add))),
        "ADD1": OpRow(_one(elementwise.with_second(np.add))),
        "ADD_ID": OpRow(_one(elementwise.add_id)),
        "SUB": OpRow(_one(elementwise.with_second(np.subtract))),
        "MUL": OpRow(_one(elementwise.with_second(np.multiply))),
        "DIV": OpRow(_one(elementwise.with_second(np.divide))),
        "SCALE": OpRow(_one(elementwise.scale), (("scale", "f"), ("bias", "f"))),
        "SQR": OpRow(_one(elementwise.of_one(np.square))),
        "SQRT": OpRow(_one(elementwise.of_one(np.sqrt))),
        "LOG": OpRow(_one(elementwise.of_one(np.log))),
        "SIN": OpRow(_one(elementwise.of_one(np.sin))),
        "COS": OpRow(_one(elementwise.of_one(np.cos))),
        "CLAMP": OpRow(_one(elementwise.clamp), (("min", "f"), ("max", "f"))),
        "LEAKY_RELU": OpRow(_one(elementwise.leaky_relu), (("slope", "f"),)),
        "UNARY": OpRow(
            elementwise.unary,
            (*_FUNCTION, ("alpha_n", "f"), ("alpha_p", "f"), ("beta", "f"), ("epsilon", "f")),
        ),
        "GLU": OpRow(elementwise.glu, (*_FUNCTION, ("swapped", "i"), ("alpha", "f"), ("limit", "f"))),
        "SUM": OpRow(_one(elementwise.sum_all)),
        "SUM_ROWS": OpRow(_one(elementwise.of_one(lambda x: x.sum(-1, keepdims=True)))),
        "MEAN": OpRow(_one(elementwise.of_one(lambda x: x.mean(-1, keepdims=True)))),
        "CUMSUM": OpRow(_one(elementwise.of_one(lambda x: x.cumsum(-1)))),
        "RMS_NORM": OpRow(_one(norms.rms_norm), _EPSILON),
        "NORM": OpRow(_one(norms.layer_norm), _EPSILON),
        "L2_NORM": OpRow(_one(norms.l2_norm), _EPSILON),
        "GROUP_NORM": OpRow(_one(norms.group_norm), (("groups", "i"), *_EPSILON)),
        "DUP": OpRow(_one(movement.copy)),
        "CPY": OpRow(_one(movement.copy)),
        "CONT": OpRow(_one(movement.copy)),
        "REPEAT": OpRow(_one(movement.repeat)),
        "CONCAT": OpRow(_one(movement.concat), (("dimension", "i"),)),
        "FILL": OpRow(_one(movement.fill), (("value", "f"),)),
        "ARANGE": OpRow(_one(movement.arange), (("start", "f"), ("stop", "f"), ("step", "f"))),
        "DIAG": OpRow(_one(movement.diagonal)),
        "TRI": OpRow(_one(movement.triangle), (("kind", "i"),)),
        "DIAG_MASK_INF": OpRow(_one(movement.causal_mask), (("past", "i"),)),
        "PAD": OpRow(_one(movement.pad), (*_PADS, ("circular", "i"))),
        "POOL_2D": OpRow(_one(movement.pool), _POOL),
        "ROLL": OpRow(_one(movement.roll), _SHIFTS),
        "ACC": OpRow(_one(partial(movement.write_part, adds=True)), _PART),
        "SET": OpRow(_one(partial(movement.write_part, adds=False)), _PART),
        "GET_ROWS": OpRow(_one(movement.get_rows)),
        "SET_ROWS": OpRow(_one(movement.set_rows)),
        "MUL_MAT": OpRow(products.matrix_product),
        "MUL_MAT_ID": OpRow(products.expert_product),
        "OUT_PROD": OpRow(_one(products.outer_product)),
        "SOLVE_TRI": OpRow(_one(products.solve_triangular)),
        "SOFT_MAX": OpRow(_one(attention.soft_max), (("scale", "f"), ("max_bias", "f"))),
        "FLASH_ATTN_EXT": OpRow(
            attention.flash_attention, (("scale", "f"), ("max_bias", "f"), ("softcap", "f"))
        ),
        "ROPE": OpRow(rotary.rope, _ROPE),
        "ROPE_BACK": OpRow(partial(rotary.rope, back=True), _ROPE),
        "ARGSORT": OpRow(_one(selection.argsort), (("descending", "i"),), chooses=True),
        "TOP_K": OpRow(_one(selection.top_k), chooses=True),
        "ARGMAX": OpRow(_one(selection.argmax), chooses=True),
        "SSM_CONV": OpRow(_one(recurrent.ssm_conv)),
        "SSM_SCAN": OpRow(_one(recurrent.ssm_scan), _KEPT),
        "GATED_DELTA_NET": OpRow(_one(recurrent.gated_delta_net), _KEPT),
        "RWKV_WKV6": OpRow(_one(recurrent.rwkv_wkv6)),
        "RWKV_WKV7": OpRow(_one(recurrent.rwkv_wkv7)),
        "GATED_LINEAR_ATTN": OpRow(_one(recurrent.gated_linear_attention), (("scale", "f"),)),
        "LIGHTNING_INDEXER": OpRow(_one(deepseek.lightning_indexer)),
        "DSV4_HC_PRE": OpRow(_one(deepseek.hyper_connection_in), (("scale", "f"), ("gated", "i"))),
        "DSV4_HC_POST": OpRow(_one(deepseek.hyper_connection_out)),
        "DSV4_HC_COMB": OpRow(_one(deepseek.hyper_connection_mix), (*_EPSILON, ("rounds", "i"))),
    }
)  # fmt: skip
"""By ggml's names (`ggml_op_name`)."""


def row_of(ops: OpSet, name: str) -> OpRow | None:
    """The row of an op; None for one that is not modelled."""
    if ops is OpSet.ATEN:
        return OpRow(aten.compute) if aten.aten_way(name) else None
    return OPS.get(name)


def named_params(op: str, words: bytes) -> dict[str, Any]:
    """The parameters of an op of ggml from the words of its `op_params`; the words themselves of one without a row."""
    row = OPS.get(op)
    if row is None:
        return {"words": list(struct.unpack(f"<{len(words) // 4}i", words))} if any(words) else {}
    return {
        name: struct.unpack_from(f"<{kind}", words, 4 * index)[0]
        for index, (name, kind) in enumerate(row.params)
        if name
    }
