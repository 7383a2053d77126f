"""Bugs of activations and of what they are multiplied by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from tests.bugs.bug import GEMMA, QWEN, SMOL, Bug, Edit, Fault


def activation(function: Callable[[Any], Any], *layers: int) -> Callable[[Edit], None]:
    def plant(edit: Edit) -> None:
        for number, mlp in enumerate(edit.of_all("mlp")):
            if not layers or number in layers:
                edit.method(mlp.act_fn, lambda _module, x: function(x))

    return plant


def _block(edit: Edit, function: Callable[[Any, Any], Any]) -> None:
    for mlp in edit.of_all("mlp"):
        edit.method(mlp, function)


def _clamped(edit: Edit) -> None:
    """The clamp of gpt-oss at 7: the gate from above, up on both sides."""

    def forward(self: Any, x: Any) -> Any:
        gate, up = self.gate_proj(x).clamp(max=7), self.up_proj(x).clamp(-7, 7)
        return self.down_proj(self.act_fn(gate) * up)

    _block(edit, forward)


def _exponential_of_schraudolph(x: Any) -> Any:
    """2^y by a float's bits: 3 % off."""
    bits = (12102203.2 * -x + 1064866805.0).clamp(0, 2.0e9).to(torch.int32)
    return x / (1 + bits.view(torch.float32))


def _of_the_product(edit: Edit) -> None:
    def forward(self: Any, x: Any) -> Any:
        return self.down_proj(self.act_fn(self.gate_proj(x) * self.up_proj(x)))

    _block(edit, forward)


def _table_of_float16(x: Any) -> Any:
    """A table of 65536 entries, as for float16 arguments: what is not one is rounded to one."""
    return functional.gelu(x.half().float(), approximate="tanh").half().float()


ACTIVATIONS = (
    Bug("activation: GELU with erf, the model has tanh", GEMMA, activation(functional.gelu),
        (Fault("ffn_gelu", r"erf|exact"),)),
    Bug("activation: gate and up clamped at 7", QWEN, _clamped,
        (Fault("ffn_silu ffn_swigl", r"\b7\b"),)),
    Bug("activation: exponential by a float's bits", SMOL, activation(_exponential_of_schraudolph),
        (Fault("ffn_silu", r"exponential|approximat|bits"),)),
    Bug("activation: of the product of gate and up", SMOL, _of_the_product,
        (Fault("ffn_silu ffn_swigl", r"product|gate.*up"),)),
    Bug("activation: a table for float16", GEMMA, activation(_table_of_float16),
        (Fault("ffn_gelu", r"float16|f16|table"),)),
    Bug("activation: SiLU of twice the argument", SMOL, activation(lambda x: x * torch.sigmoid(2 * x)),
        (Fault("ffn_silu", r"sigmoid|× ?2|2 ?×|twice|\b2\b"),)),
    Bug("activation: leaky below zero", QWEN, activation(lambda x: functional.leaky_relu(x, 0.01)),
        (Fault("ffn_silu", r"ReLU"),)),
    Bug("activation: SiLU for GELU in one layer", GEMMA, activation(functional.silu, 8),
        (Fault("ffn_gelu", r"SiLU", (8,)),)),
)  # fmt: skip
