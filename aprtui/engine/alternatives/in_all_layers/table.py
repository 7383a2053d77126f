"""Alternatives that code has in every layer if it has them in one, with the numbers that are usual.

They are what is tried where whole layers lie between captured stages, as where logits alone were captured; beside those
whose number is looked for (`numbered`).
"""

from __future__ import annotations

from aprtui.engine.alternatives import attention, rows
from aprtui.engine.alternatives.activations import ACTIVATION_ALTERNATIVES
from aprtui.engine.alternatives.alternative import Alternative, plain
from aprtui.engine.alternatives.experts import EXPERT_ALTERNATIVES
from aprtui.engine.alternatives.in_all_layers.numbered import NUMBERED
from aprtui.engine.alternatives.latent import LATENT_ALTERNATIVES
from aprtui.engine.alternatives.maps import ATTENTION_ALTERNATIVES
from aprtui.engine.alternatives.matrices.decoding import DECODING_ALTERNATIVES
from aprtui.engine.alternatives.norms import BIAS_ALTERNATIVES, NORM_ALTERNATIVES
from aprtui.engine.alternatives.recurrence import RECURRENCE_ALTERNATIVES
from aprtui.engine.alternatives.results import RESIDUAL_ALTERNATIVES
from aprtui.engine.alternatives.rope import ROPE_ALTERNATIVES
from aprtui.trace.graph.ops import Op

_CACHE = "check where keys and values of each layer lie in the cache"
_RESIDUAL = "add what entered the block, before its norm"

_WHOLE_STAGES: tuple[Alternative, ...] = (
    plain(
        "keys for values", (Op.ATTEND,), attention.keys_as_values, "the keys are read for the values", _CACHE,
        lambda model, node: model.config.graph.latent is None,
    ),
    plain("norm left out", (Op.RMS_NORM,), rows.first_input, "the norm is left out", "normalise what enters the block"),
    plain(
        "norm of the layer's input", ("ffn_norm",), rows.norm_of_layer_input,
        "normalises what entered the layer, as a parallel block does", "normalise what left the attention block",
    ),
    plain(
        "residual of the normed input", (Op.ADD,), rows.residual_of_norm,
        "what was normalised is added, in place of what entered the block", _RESIDUAL,
    ),
    plain("residual left out", (Op.ADD,), rows.second_input, "the residual is left out", _RESIDUAL),
    plain("bias twice", (Op.BIAS,), rows.bias_twice, "the bias is added twice", "add each bias once"),
    plain(
        "norms exchanged", ("attn_norm", "ffn_norm"), rows.other_norm_of_layer,
        "the two norms of a layer have each other's weight", "bind each norm to its own tensor",
    ),
    plain(
        "powers of two", (Op.SOFTMAX,), attention.powers_of_two, "the softmax is of 2ˣ in place of eˣ",
        "scale scores by log₂ e first, or take powers of e",
    ),
    plain(
        "logits of the token before", ("lm_head",), rows.logits_of_token_before,
        "they are those of the token before", "take the row of the last position",
    ),
)  # fmt: skip

IN_ALL_LAYERS: tuple[Alternative, ...] = tuple(
    alternative
    for table in (
        ROPE_ALTERNATIVES, NORM_ALTERNATIVES, BIAS_ALTERNATIVES, ATTENTION_ALTERNATIVES, ACTIVATION_ALTERNATIVES,
        EXPERT_ALTERNATIVES, RECURRENCE_ALTERNATIVES, LATENT_ALTERNATIVES, RESIDUAL_ALTERNATIVES, _WHOLE_STAGES,
        DECODING_ALTERNATIVES,
    )
    for alternative in table
    if not alternative.may_be_meant and alternative.name not in {one.alternative.name for one in NUMBERED}
)  # fmt: skip
