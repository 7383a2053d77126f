"""Bugs at both ends: of the embedding and of the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.bugs.bug import GEMMA, QWEN, SMOL, Bug, Edit, Fault


def head(function: Callable[[Any], Any]) -> Callable[[Edit], None]:
    """Logits are `function(logits)`."""

    def plant(edit: Edit) -> None:
        plain = edit.method(edit.model.lm_head, lambda _module, x: function(plain(x)))

    return plant


def _tied(edit: Edit) -> None:
    edit.fill(edit.model.lm_head.weight, edit.model.model.embed_tokens.weight)


def _next_row(edit: Edit) -> None:
    plain = edit.method(edit.model.model.embed_tokens, lambda _module, ids: plain(ids + 1))


def _first_token_zero(edit: Edit) -> None:
    def forward(_module: Any, ids: Any) -> Any:
        found = plain(ids).clone()
        found[:, 0] = 0
        return found

    plain = edit.method(edit.model.model.embed_tokens, forward)


def _norm_twice(edit: Edit) -> None:
    plain = edit.method(edit.model.model.norm, lambda _module, x: plain(plain(x)))


def _a_layer_early(edit: Edit) -> None:
    """The final norm reads what the last layer but one has made."""
    kept = {}
    last = edit.layers[-1]

    def forward(_module: Any, hidden: Any, **options: Any) -> Any:
        kept[0] = hidden
        return plain(hidden, **options)

    plain = edit.method(last, forward)
    normed = edit.method(edit.model.model.norm, lambda _module, x: normed(kept[0]))


def capped(cap: float) -> Callable[[Any], Any]:
    return lambda logits: cap * torch.tanh(logits / cap)


LOGITS = (
    Bug("logits: of the embedding's table, the model has a head", QWEN, _tied,
        (Fault("lm_head", r"token_embd|embedding|tied"),)),
    Bug("logits: multiplied by 0.0625", SMOL, head(lambda logits: logits * 0.0625),
        (Fault("lm_head", r"0\.0625|1/16"),)),
    Bug("logits: softcap of 30, which the model does not have", GEMMA, head(capped(30.0)),
        (Fault("lm_head", r"softcap.*\b30\b|\b30\b.*softcap"),)),
    Bug("embedding: row of the next id", QWEN, _next_row, (Fault("embedding", r"row|id|token"),)),
    Bug("embedding: first token zero", SMOL, _first_token_zero, (Fault("embedding", r"zero|\b0\b"),)),
    Bug("final norm twice", QWEN, _norm_twice, (Fault("final_norm", r"twice"),)),
    Bug("final norm of the last layer's input", SMOL, _a_layer_early,
        (Fault("final_norm", r"layer 28"),)),
    Bug("logits: less their maximum", GEMMA, head(lambda logits: logits - logits.amax(-1, keepdim=True)),
        (Fault("lm_head", r"maximum|constant|subtract|log"),)),
    Bug("logits: log-probabilities", QWEN, head(lambda logits: torch.log_softmax(logits, -1)),
        (Fault("lm_head", r"log.?softmax|log.?prob|constant|logarithm"),)),
)  # fmt: skip
