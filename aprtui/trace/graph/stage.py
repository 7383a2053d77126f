"""A stage: a named point of the forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from aprtui.trace.graph.ops import CHOICES, Axis, Op, Part, Scope


class TokenMixer(StrEnum):
    """What lets a token of a layer know of those before it: attention, or a state that goes from token to token."""

    ATTENTION = "attention"
    RECURRENCE = "recurrence"


class BlockKind(StrEnum):
    """What the feed-forward block of a layer is: one for all tokens, or experts that a router chooses for each."""

    DENSE = "dense"
    EXPERTS = "experts"


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a stage. `previous_layer` takes the stage from the layer before (the graph's entry in layer 0)."""

    stage: str
    part: Part = Part.WHOLE
    previous_layer: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """A named point of the forward pass.

    `params` names the parameters its op uses, as GGUF tensors are called without the `blk.N.` prefix; `width` is the
    number of channels, or the number of heads for attention maps. What the chosen experts of a token compute is one
    row, expert after expert: `width` is that of the row, and `chosen` says how many experts share it.
    """

    name: str
    op: Op
    inputs: tuple[Input, ...]
    width: int
    params: tuple[str, ...] = ()
    scope: Scope = Scope.LAYER
    axes: tuple[Axis, ...] = (Axis.TOKEN, Axis.CHANNEL)
    extension: bool = False
    column: str = "feed-forward"
    holds_indices: bool = False
    """Whether the values are integers, as of chosen experts: then only equality has a meaning."""
    chosen: int = 1
    """Experts that share a row, most probable first; 1 where the axes have no expert."""
    mixer: TokenMixer | None = None
    """The kind of layers that have the stage, by what mixes their tokens; None for all."""
    block: BlockKind | None = None
    """The kind of layers that have the stage, by their feed-forward block; None for all."""
    head_size: int = 0
    """Channels of a head, where the op treats each head by itself."""

    @property
    def heads(self) -> int:
        """How many heads a row has, where the op treats each head by itself; 1 where it does not."""
        return self.width // self.head_size if self.head_size else 1

    @property
    def code(self) -> str:
        """Three letters that stand for the name, where there is no room for it."""
        return CODES[self.name]

    @property
    def is_attention_map(self) -> bool:
        """Whether the stage is `[heads, query, key]`, of which only key ≤ query has a meaning."""
        return Axis.QUERY in self.axes

    @property
    def column_axis(self) -> str:
        """What a column of a row is: `channel`, `vocabulary`, `key`; `expert` of a router, `choice` of its choices.

        Rows of several experts have channels, those of one choice after the other.
        """
        if self.axes[-1] is Axis.EXPERT and self.op in CHOICES:
            return "choice"
        return str(self.axes[-1])

    @property
    def holds_logits(self) -> bool:
        """Whether the stage is a number for each token of the vocabulary: often computed for the last position only."""
        return Axis.VOCABULARY in self.axes

    @property
    def holds_state(self) -> bool:
        """Whether the stage is what goes on to the next token: computed for the last position of a pass only."""
        return self.op is Op.DELTA_STATE

    @property
    def of_last_position(self) -> bool:
        """Whether one row may be all that there is, that of the last position."""
        return self.holds_logits or self.holds_state

    def shape(self, tokens: int) -> tuple[int, ...]:
        """Shape for `tokens` positions: `[tokens, width]`, or `[heads, tokens, tokens]` for attention maps."""
        return (self.width, tokens, tokens) if self.is_attention_map else (tokens, self.width)

    def stated_shape(self, tokens: int) -> tuple[int, ...]:
        """The shape with a size for each of `axes`: that of `shape`, but rows of experts are `[chosen, channels]`."""
        if Axis.EXPERT not in self.axes or Axis.CHANNEL not in self.axes:
            return self.shape(tokens)
        return (tokens, self.chosen, self.width // self.chosen)

    def size(self, tokens: int) -> int:
        return self.width * tokens * (tokens if self.is_attention_map else 1)


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """One stage of one layer; `layer` is None for stages that the model has once."""

    layer: int | None
    stage: str

    def __str__(self) -> str:
        return self.stage if self.layer is None else f"layer {self.layer} {self.stage}"


ALIASES: Mapping[str, str] = MappingProxyType({"layer_output": "post_ffn_residual", "ffn_swiglu": "ffn_swigl"})
"""Other names that users and captures use for a stage; never a file name of ours."""

CODES: Mapping[str, str] = MappingProxyType(
    {
        "embedding": "emb", "attn_norm": "ano", "qkv_matmul": "qkv", "qkv_bias": "bia", "q_norm": "qno",
        "k_norm": "kno", "q_post_rope": "qro", "k_post_rope": "kro", "attn_scores": "sco", "attn_softmax": "sof",
        "attention": "att", "attn_out": "aou", "post_attn_residual": "ars", "ffn_norm": "fno", "ffn_gate": "gat",
        "ffn_up": "fup", "ffn_silu": "sil", "ffn_swigl": "swi", "ffn_out": "fou", "post_ffn_residual": "frs",
        "attn_softcap": "cap", "attn_post_norm": "apn", "ffn_gelu": "gel", "ffn_geglu": "geg", "ffn_post_norm": "fpn",
        "q_temp_scaled": "qts",
        "final_norm": "fin", "lm_head": "lmh", "logit_softcap": "lsc", "ffn_moe_logits": "rlo", "moe_router": "rou",
        "moe_router_indices": "idx", "ffn_moe_weights": "rwe", "ffn_moe_weights_norm": "rwn",
        "ffn_moe_probs_biased": "rbi", "ffn_moe_weights_scaled": "rsc", "ffn_moe_gate": "ega",
        "ffn_moe_up": "eup", "ffn_moe_silu": "esi", "ffn_moe_swiglu": "esw", "ffn_moe_down": "edo",
        "moe_ffn_out": "moe", "attn_out_matmul": "aom", "ffn_swiglu_oai": "swo", "ffn_moe_weights_softmax": "rws",
        "ffn_moe_gate_biased": "egb", "ffn_moe_up_biased": "eub", "ffn_moe_gelu": "ege", "ffn_moe_geglu": "egg",
        "ffn_moe_swiglu_oai": "eso", "ffn_moe_down_biased": "edb",
        "attn_gate_sigmoid": "ags", "attn_gated": "agd", "linear_attn_qkv_mixed": "lqk",
        "linear_attn_z": "lnz", "linear_attn_mixed_ba": "lba",
        "linear_attn_beta": "lbe", "linear_attn_alpha": "lal", "conv_output_raw": "cnv",
        "conv_output_silu": "csi", "q_conv_predelta": "lqn", "k_conv_predelta": "lkn", "beta_sigmoid": "bsi",
        "a_softplus": "asp", "linear_attn_gate": "dec", "linear_attn_state": "sta", "linear_attn_output": "del",
        "linear_attn_norm": "lno", "linear_attn_z_silu": "zsi", "linear_attn_gated": "lga", "linear_attn_out": "lou",
        "ffn_shexp_gate": "sga", "ffn_shexp_up": "sup", "ffn_shexp_silu": "ssi", "ffn_shexp_swiglu": "ssw",
        "q_a": "qla", "q_a_norm": "qan", "mla_q": "qma", "kv_cmpr_pe": "kvp", "kv_cmpr": "kvc", "q_nope": "qnp",
        "q_pe_raw": "qpr", "q_pe": "qpe", "k_pe": "kpe", "q_nope_absorbed": "qab", "mla_kv": "kvm", "k_nope": "knp",
        "v_heads": "vhe", "q_latent": "qlt", "k_latent": "klt", "attn_latent": "alt",
        "ffn_shexp": "sdo", "ffn_shexp_sum": "ssu", "shared_expert_gate": "seg",
        "shared_expert_gate_sigmoid": "ses", "ffn_shexp_gated": "sgd",
    }
)  # fmt: skip
"""Three letters for each stage, where a screen has no room for its name."""

MAX_LAYERS = 0xFFFF
"""More layers than any model has: what claims more is not a model's, and would take minutes to walk."""

ENTRY = "embedding"
"""The stage that enters layer 0."""

LAYER_OUTPUT = "post_ffn_residual"
"""The stage that leaves a layer and enters the next one."""

RESIDUALS = ("post_attn_residual", LAYER_OUTPUT)
"""The stages that add what a block gives to what entered it."""

ROUTER = "moe_router"
"""The stage that holds the probability of each expert (or its logit), of which `ROUTER_CHOICE` are the largest."""

ROUTER_CHOICE = "moe_router_indices"
"""The stage that says which experts a token uses."""


def canonical_name(name: str) -> str:
    """The canonical stage name for `name`, which may be an alias or in another case."""
    lowered = name.strip().lower()
    return ALIASES.get(lowered, lowered)


RESIDUAL_IN = Input(LAYER_OUTPUT, previous_layer=True)
"""What enters a layer."""
