"""The kernel of each opcode, compiled when a program first needs it, to be called by address.

Those that touch weights stand here: matrix products, what their inputs are rounded to, and the embedding's rows.

Called by name, all kernels would be optimised once more inside every function above them: 26 s at a first start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numba import float32

from aprtui.engine.cpu import attention, experts, recurrence, rows, statistics
from aprtui.engine.cpu.experts import EXPERT_OUT_TOKENS, EXPERT_ROWS, int64s, slots_of
from aprtui.engine.cpu.jit import callback, kernel, renamed
from aprtui.engine.cpu.matmul import (
    INTEGERS,
    ActivationKind,
    activation_kind,
    dequantize_row,
    multiply_floats,
    multiply_integers,
    quantize_rows_q8_0,
    quantize_rows_q8_k,
    round_rows,
)
from aprtui.engine.cpu.matmul.scalars import load_f32, store_f32
from aprtui.engine.cpu.memory import array_at, control_record, first_token, float32s, instruction
from aprtui.engine.cpu.program import Opcode
from aprtui.engine.protocol import Mode
from aprtui.model.model import Model
from aprtui.model.weight_types import WeightType
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op

_Q8_1 = int(ActivationKind.Q8_1)
Operation = Callable[[int, int, int, int, int], None]
"""`(instruction, control record, begin, end, scratch)`: addresses, and which pieces of the instruction to do.

Pieces are tokens, weight rows (of experts: `EXPERT_ROWS` of one of them), attention blocks or stage tensors, as the
opcode cuts them; `scratch` is the thread's.
"""


@kernel
def _first_wanted(step_address: int, control_address: int, begin: int) -> Any:
    return max(begin, first_token(step_address, control_record(control_address)[0]))


def _to_q8_k(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Round the rows `begin … end - 1` of a matmul's input, as far as they are wanted, to Q8_K."""
    step, first = instruction(step_address)[0], _first_wanted(step_address, control_address, begin)
    quantize_rows_q8_k(step.source, step.width, first, end, step.target)


def _to_q8_0(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """As `_to_q8_k`, to Q8_0 or Q8_1."""
    step, first = instruction(step_address)[0], _first_wanted(step_address, control_address, begin)
    quantize_rows_q8_0(step.source, step.width, first, end, step.target, int(step.kind == _Q8_1))


def _to_floats(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """As `_to_q8_k`, to a kind whose rows stay floats."""
    step, first = instruction(step_address)[0], _first_wanted(step_address, control_address, begin)
    round_rows(step.kind, step.source, step.width, first, end, step.target)


_ROUNDINGS: Mapping[ActivationKind, Operation] = MappingProxyType(
    {ActivationKind.Q8_K: _to_q8_k, ActivationKind.Q8_0: _to_q8_0, ActivationKind.F16: _to_floats}
)
"""Each on its own: all of them in one kernel take four times as long to compile as the one that a model needs."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What is compiled on its own. Kernels that read weights are compiled for one weight type each, so that a model
    waits for those of its own types only."""

    opcode: Opcode
    weight_type: WeightType | None = None
    integers: bool = False
    """Whether a product meets activations of 8 bits; else they are floats."""
    rounding: ActivationKind | None = None
    """What the input of products is rounded to: one of `_ROUNDINGS`, which stands for those that are alike."""

    @property
    def name(self) -> str:
        weight_type = "" if self.weight_type is None else self.weight_type.name
        rounding = "" if self.rounding is None else self.rounding.name
        return f"{self.opcode.name}.{weight_type}.{'integers' if self.integers else ''}.{rounding}"

    @classmethod
    def named(cls, name: str) -> Kernel:
        opcode, weight_type, integers, rounding = name.split(".")
        return cls(
            Opcode[opcode], WeightType[weight_type] if weight_type else None, bool(integers),
            ActivationKind[rounding] if rounding else None,
        )  # fmt: skip

    def operation(self) -> Operation:
        if self.rounding is not None:
            return _ROUNDINGS[self.rounding]
        if self.weight_type is None:
            return {**_OPERATIONS, **_EXPERT_OPERATIONS, **_RECURRENT_OPERATIONS}[self.opcode]
        make = _embed if self.opcode is Opcode.EMBED else _MATMULS[self.opcode, self.integers]
        return renamed(make(int(self.weight_type)), self.weight_type.name)


def _embed(weight_type: int) -> Operation:
    def embed(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
        """Dequantise the embedding rows of the tokens `begin … end - 1`, times `scalar`."""
        step = instruction(step_address)[0]
        control = control_record(control_address)[0]
        ids = array_at(control.ids, control.tokens, np.int64)
        for token in range(begin, end):
            target = step.target + 4 * token * step.target_stride
            row = step.other + ids[token] * step.other_stride
            dequantize_row(weight_type, row, step.width, target)
            if step.scalar != 1:
                values, scale = float32s(target, step.width), float32(step.scalar)
                for i in range(step.width):
                    values[i] *= scale

    return embed


def _integer_matmul(weight_type: int) -> Operation:
    def matmul(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
        """Weight rows `begin … end - 1` times all tokens, or the wanted ones; logits go where the caller has them."""
        step = instruction(step_address)[0]
        control = control_record(control_address)[0]
        first = first_token(step_address, control)
        target = step.target + 4 * first * step.target_stride if step.target else control.logits
        if first < control.tokens:
            multiply_integers(
                weight_type, step.other, step.other_stride, step.width, step.source + first * step.source_stride,
                step.source_stride, control.tokens - first, target, step.target_stride, begin, end, scratch,
            )  # fmt: skip

    return matmul


def _float_matmul(weight_type: int) -> Operation:
    def matmul(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
        """As `_integer_matmul`."""
        step = instruction(step_address)[0]
        control = control_record(control_address)[0]
        first = first_token(step_address, control)
        target = step.target + 4 * first * step.target_stride if step.target else control.logits
        if first < control.tokens:
            multiply_floats(
                weight_type, step.other, step.other_stride, step.width, step.source + first * step.source_stride,
                step.source_stride, control.tokens - first, target, step.target_stride, begin, end, scratch,
            )  # fmt: skip

    return matmul


@kernel
def _group_of(step_address: int, piece: int) -> Any:
    """Expert, first place, count and first weight row of a piece of a product of experts; a count of 0: nothing."""
    step = instruction(step_address)[0]
    blocks = (step.heads + EXPERT_ROWS - 1) // EXPERT_ROWS
    group, row = piece // blocks, piece % blocks * EXPERT_ROWS
    header = int64s(step.parameter, 1 + 3 * step.count)
    if group >= header[0]:
        return 0, 0, 0, 0
    return header[1 + group], header[1 + step.count + group], header[1 + 2 * step.count + group], row


@kernel
def _deal_out(step_address: int, place: int, tokens: int, row: int, end: int, products: int) -> None:
    """Copy products `[tokens, EXPERT_ROWS]` of the weight rows `row … end - 1` to the slots of these places."""
    step = instruction(step_address)[0]
    slots = int64s(slots_of(step.parameter, step.count), place + tokens)
    for token in range(tokens):
        target = step.target + 4 * (slots[place + token] * step.heads + row)
        for i in range(end - row):
            store_f32(target, i, load_f32(products, token * EXPERT_ROWS + i))


def _expert_integer_matmul(weight_type: int) -> Operation:
    def expert_matmul(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
        """Some rows of one expert times the rows of all tokens that chose it."""
        step = instruction(step_address)[0]
        control = control_record(control_address)[0]
        products = scratch + control.attention_scratch  # which attention has, when it is its turn
        for piece in range(begin, end):
            expert, place, count, row = _group_of(step_address, piece)
            last = min(row + EXPERT_ROWS, step.heads)
            weights = step.other + expert * step.heads * step.other_stride
            for done in range(0, count, EXPERT_OUT_TOKENS):
                tokens = min(EXPERT_OUT_TOKENS, count - done)
                multiply_integers(
                    weight_type, weights, step.other_stride, step.width,
                    step.source + (place + done) * step.source_stride, step.source_stride, tokens,
                    products - 4 * row, EXPERT_ROWS, row, last, scratch,
                )  # fmt: skip
                _deal_out(step_address, place + done, tokens, row, last, products)

    return expert_matmul


def _expert_float_matmul(weight_type: int) -> Operation:
    def expert_matmul(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
        """As `_expert_integer_matmul`."""
        step = instruction(step_address)[0]
        control = control_record(control_address)[0]
        products = scratch + control.attention_scratch
        for piece in range(begin, end):
            expert, place, count, row = _group_of(step_address, piece)
            last = min(row + EXPERT_ROWS, step.heads)
            weights = step.other + expert * step.heads * step.other_stride
            for done in range(0, count, EXPERT_OUT_TOKENS):
                tokens = min(EXPERT_OUT_TOKENS, count - done)
                multiply_floats(
                    weight_type, weights, step.other_stride, step.width,
                    step.source + (place + done) * step.source_stride, step.source_stride, tokens,
                    products - 4 * row, EXPERT_ROWS, row, last, scratch,
                )  # fmt: skip
                _deal_out(step_address, place + done, tokens, row, last, products)

    return expert_matmul


_MATMULS: Mapping[tuple[Opcode, bool], Callable[[int], Operation]] = MappingProxyType(
    {
        (Opcode.MATMUL, True): _integer_matmul,
        (Opcode.MATMUL, False): _float_matmul,
        (Opcode.EXPERT_MATMUL, True): _expert_integer_matmul,
        (Opcode.EXPERT_MATMUL, False): _expert_float_matmul,
    }
)
"""By opcode, and whether the product meets activations of 8 bits."""

_EXPERT_OPERATIONS: Mapping[Opcode, Operation] = MappingProxyType(
    {
        Opcode.ROUTER_SOFTMAX: experts.router_softmax,
        Opcode.CHOOSE_EXPERTS: experts.choose_experts,
        Opcode.TAKE_CHOSEN: experts.take_chosen,
        Opcode.NORMALISE_CHOSEN: experts.normalise_chosen,
        Opcode.SCALE_CHOSEN: experts.scale_chosen,
        Opcode.GROUP_EXPERTS: experts.group_experts,
        Opcode.GATHER_ROWS: experts.gather_rows,
        Opcode.EXPERT_BIAS: experts.expert_bias,
        Opcode.COMBINE_EXPERTS: experts.combine_experts,
    }
)

_RECURRENT_OPERATIONS: Mapping[Opcode, Operation] = MappingProxyType(
    {
        Opcode.CONVOLUTION: recurrence.convolution,
        Opcode.KEEP_ROWS: recurrence.keep_rows,
        Opcode.HEAD_L2_NORM: rows.head_l2_norm,
        Opcode.SOFTPLUS: recurrence.softplus,
        Opcode.DECAY: recurrence.decay,
        Opcode.DELTA_RULE: recurrence.delta_rule,
    }
)

_OPERATIONS: Mapping[Opcode, Operation] = MappingProxyType(
    {
        Opcode.RMS_NORM: rows.rms_norm,
        Opcode.BIAS: rows.bias,
        Opcode.ROPE: rows.rope,
        Opcode.POSITION_SCALE: rows.scale_by_position,
        Opcode.ADD: rows.add,
        Opcode.SILU: rows.silu,
        Opcode.GELU: rows.gelu,
        Opcode.SWIGLU_OAI: rows.swiglu_oai,
        Opcode.SOFTCAP: rows.softcap_logits,
        Opcode.SIGMOID: rows.sigmoid,
        Opcode.TAKE_HEADS: rows.take_heads,
        Opcode.MULTIPLY: rows.multiply,
        Opcode.SCALE_ROWS: rows.scale_rows,
        Opcode.STORE_KEYS: attention.store_keys,
        Opcode.STORE_VALUES: attention.store_values,
        Opcode.ATTENTION: attention.attention,
        Opcode.STATISTICS: statistics.statistics,
    }
)


_OWN_OPS: Mapping[Opcode, frozenset[Op]] = MappingProxyType(
    {
        Opcode.GELU: frozenset({Op.GELU}),
        Opcode.SWIGLU_OAI: frozenset({Op.SWIGLU_OAI}),
        Opcode.SOFTCAP: frozenset({Op.SOFTCAP}),
        Opcode.SIGMOID: frozenset({Op.SIGMOID, Op.HEAD_GATE}),
        Opcode.TAKE_HEADS: frozenset({Op.HEAD_FRONT, Op.HEAD_BACK, Op.HEAD_JOIN}),
        Opcode.SCALE_ROWS: frozenset({Op.SCALE_ROWS}),
        Opcode.NORMALISE_CHOSEN: frozenset({Op.NORMALISE_CHOSEN}),
        Opcode.SCALE_CHOSEN: frozenset({Op.SCALE_CHOSEN}),
        Opcode.EXPERT_BIAS: frozenset({Op.EXPERT_BIAS}),
        Opcode.POSITION_SCALE: frozenset({Op.POSITION_SCALE}),
    }
)
"""Kernels that only models with one of these ops need."""


def kernels_for(model: Model, mode: Mode) -> list[Kernel]:
    """All kernels that programs of `model` call."""
    ops = {stage.op for stage in model.graph.stages}
    opcodes = [*_OPERATIONS, *(_EXPERT_OPERATIONS if Op.EXPERT_MATMUL in ops else ())]
    opcodes += (Opcode.GROUP_EXPERTS, Opcode.GATHER_ROWS) if Op.HEAD_MATMUL in ops else ()
    opcodes += _RECURRENT_OPERATIONS if Op.DELTA_STATE in ops else ()
    found = [Kernel(opcode) for opcode in opcodes if opcode not in _OWN_OPS or _OWN_OPS[opcode] & ops]
    for node in model.graph.nodes:
        op = model.graph[node.stage].op
        if op is Op.EMBED:
            found += [Kernel(Opcode.EMBED, weight.type) for weight in model.params(node)]
        elif op in MATRIX_PRODUCTS:
            types_of = dict.fromkeys(weight.type for weight in model.params(node))
            found += [matmul_kernel(op, weight_type, mode) for weight_type in types_of]
            kinds = {activation_kind(weight_type, mode) for weight_type in types_of if op is Op.MATMUL}
            found += [rounding_kernel(kind) for kind in kinds - {ActivationKind.F32}]
    return list(dict.fromkeys(found))


def matmul_kernel(op: Op, weight_type: WeightType, mode: Mode) -> Kernel:
    opcode = Opcode.MATMUL if op is Op.MATMUL else Opcode.EXPERT_MATMUL
    return Kernel(opcode, weight_type, activation_kind(weight_type, mode) in INTEGERS)


def rounding_kernel(kind: ActivationKind) -> Kernel:
    """The kernel that rounds rows to `kind`, which is not float32."""
    if kind not in INTEGERS:
        return Kernel(Opcode.QUANTIZE, rounding=ActivationKind.F16)
    return Kernel(Opcode.QUANTIZE, rounding=kind if kind is ActivationKind.Q8_K else ActivationKind.Q8_0)


@cache
def _compiled(kernel: Kernel) -> Any:
    return callback(kernel.operation(), arguments=5)


def operation_address(kernel: Kernel) -> int:
    """Address of a kernel, compiled or loaded from numba's cache."""
    return int(_compiled(kernel).address)
