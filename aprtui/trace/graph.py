"""The stage graph: the one place where stages are listed.

A stage is a named point of the forward pass. The graph says for each stage which op makes it, from which stages, with
which parameters, and what shape it has. An engine evaluates the graph, captures are named by it, comparison walks it in
execution order, screens draw it. Names and shapes are those of the APRT stage files (`SaveTensorStage::ALL`), of which
dense models write 20; points that those names lack are stages too, marked as extensions. Extensions of layers with
experts and of recurrent layers have the names that llama.cpp gives them, or are named like those.

Shapes use T = tokens, H = hidden size, and the axis names of `Axis`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, cached_property, partial
from itertools import compress
from types import MappingProxyType
from typing import Any


class Scope(StrEnum):
    """Where a stage occurs: in every layer, in the first layer only, or once for the model."""

    LAYER = "layer"
    FIRST_LAYER = "first-layer"
    MODEL = "model"


class Axis(StrEnum):
    TOKEN = "token"
    CHANNEL = "channel"
    HEAD = "head"
    QUERY = "query"
    KEY = "key"
    VOCABULARY = "vocabulary"
    EXPERT = "expert"


class Op(StrEnum):
    """What turns the input stages into a stage; an engine has one implementation of each."""

    EMBED = "embed"
    RMS_NORM = "rms_norm"
    HEAD_RMS_NORM = "head_rms_norm"
    MATMUL = "matmul"
    BIAS = "bias"
    ROPE = "rope"
    POSITION_SCALE = "position_scale"
    SCORES = "scores"
    SOFTCAP = "softcap"
    SOFTMAX = "softmax"
    ATTEND = "attend"
    ADD = "add"
    SILU = "silu"
    GELU = "gelu"
    SWIGLU_OAI = "swiglu_oai"
    SIGMOID = "sigmoid"
    HEAD_GATE = "head_gate"
    HEAD_FRONT = "head_front"
    HEAD_BACK = "head_back"
    HEAD_JOIN = "head_join"
    HEAD_MATMUL = "head_matmul"
    MULTIPLY = "multiply"
    SCALE_ROWS = "scale_rows"
    ROUTER_SOFTMAX = "router_softmax"
    CHOOSE_EXPERTS = "choose_experts"
    TAKE_CHOSEN = "take_chosen"
    NORMALISE_CHOSEN = "normalise_chosen"
    SCALE_CHOSEN = "scale_chosen"
    SOFTMAX_CHOSEN = "softmax_chosen"
    EXPERT_MATMUL = "expert_matmul"
    EXPERT_BIAS = "expert_bias"
    COMBINE_EXPERTS = "combine_experts"
    CONVOLUTION = "convolution"
    HEAD_L2_NORM = "head_l2_norm"
    SOFTPLUS = "softplus"
    DECAY = "decay"
    DELTA_STATE = "delta_state"
    DELTA_OUTPUT = "delta_output"


_CHOICES = frozenset({Op.CHOOSE_EXPERTS, Op.TAKE_CHOSEN, Op.NORMALISE_CHOSEN, Op.SCALE_CHOSEN, Op.SOFTMAX_CHOSEN})
"""Ops that give a number for each chosen expert of a token, most probable first."""

HEAD_ROWS = frozenset({Op.ROPE, Op.POSITION_SCALE, Op.HEAD_RMS_NORM, Op.HEAD_JOIN, Op.ATTEND})
"""Ops whose rows are heads, one after the other."""

_KEEP_ORDER = frozenset({Op.ROPE, Op.POSITION_SCALE, Op.HEAD_RMS_NORM, Op.BIAS, Op.MATMUL})
"""Ops between a matrix product and RoPE, that product included: their channels lie in its order."""

MATRIX_PRODUCTS = frozenset({Op.MATMUL, Op.EXPERT_MATMUL, Op.HEAD_MATMUL})
"""Ops that multiply a matrix of weights, whose input engines round by the type of the weights."""

RECURRENT_OPS = frozenset({Op.CONVOLUTION, Op.DELTA_STATE, Op.DELTA_OUTPUT})
"""Ops that go through the tokens one after the other, from a state that earlier ones left."""
BIASES = frozenset({Op.BIAS, Op.EXPERT_BIAS})
"""Ops whose parameters are biases."""


class Part(StrEnum):
    """Which columns of a fused Q‖K‖V stage an input means; WHOLE for all other inputs.

    LINEAR_… are those of recurrent layers; LATENT and LATENT_KEY those of what latent attention keeps of a token.
    """

    WHOLE = "whole"
    Q = "q"
    K = "k"
    V = "v"
    LINEAR_Q = "linear-q"
    LINEAR_K = "linear-k"
    LINEAR_V = "linear-v"
    LATENT = "latent"
    LATENT_KEY = "latent-key"


class TokenMixer(StrEnum):
    """What lets a token of a layer know of those before it: attention, or a state that goes from token to token."""

    ATTENTION = "attention"
    RECURRENCE = "recurrence"


class BlockKind(StrEnum):
    """What the feed-forward block of a layer is: one for all tokens, or experts that a router chooses for each."""

    DENSE = "dense"
    EXPERTS = "experts"


class Router(StrEnum):
    """What makes numbers from 0 to 1 of a router's logits: a softmax over all experts, or a sigmoid of each."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


class GroupScore(StrEnum):
    """What a token's groups of experts are chosen by: the largest number in each, or the sum of its two largest."""

    LARGEST = "largest"
    TWO_LARGEST = "two-largest"


@dataclass(frozen=True, slots=True)
class ExpertGroups:
    """Groups of neighbouring experts, of which a token chooses `used` first, and its experts among theirs alone.

    DeepSeek-V2 (arXiv:2405.04434) scores a group by its largest probability, DeepSeek-V3 (arXiv:2412.19437) by the sum
    of its two largest, the bias of the choice included.
    """

    count: int
    used: int
    score: GroupScore

    def fits(self, experts: int, chosen: int) -> bool:
        """Whether so many experts come in such groups, of two or more, and those of a token have all it chooses."""
        if self.count < 1 or experts % self.count or experts < 2 * self.count:
            return False
        return 0 < self.used <= self.count and chosen <= self.used * (experts // self.count)


class RopeLayout(StrEnum):
    """Which channels RoPE turns together: `i` with `i + d/2`, or `2i` with `2i + 1`."""

    HALF_SPLIT = "half-split"
    INTERLEAVED = "interleaved"


class Activation(StrEnum):
    """What the gate of a feed-forward block goes through; GELU is the approximation by tanh.

    SWIGLU_OAI is that of gpt-oss, of gate and up in one: both clamped, and 1 added to up.
    """

    SILU = "silu"
    GELU_TANH = "gelu-tanh"
    SWIGLU_OAI = "swiglu-oai"


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Attention whose keys and values are made of one short row a token (DeepSeek-V2, arXiv:2405.04434).

    `rank` are the channels of that row. A head of a query has `nope` channels that stay as they are and `rope` that are
    turned, as has the one key part that all heads share; a head of values has `value`. Queries are made of a row of
    `query_rank` channels, or straight where that is 0.

    `absorbed`: what makes keys of the row is multiplied into the queries, and what makes values of it behind the
    attention, so that all heads meet the row itself. A file says by its tensors which of the two is computed.
    """

    rank: int
    query_rank: int
    nope: int
    rope: int
    value: int
    absorbed: bool

    @property
    def key_dim(self) -> int:
        """Channels of a head of what the scores multiply."""
        return (self.rank if self.absorbed else self.nope) + self.rope

    @property
    def value_dim(self) -> int:
        """Channels of a head of what the probabilities weigh."""
        return self.rank if self.absorbed else self.value


@dataclass(frozen=True, slots=True)
class GraphConfig:
    """Everything the graph of a transformer depends on. Without `experts`, its feed-forward blocks are dense.

    `post_norms`: what attention and feed-forward block give is normalised before it is added. `attn_softcap` and
    `logit_softcap`: scores and logits are softcapped. `windows` has for each layer how many positions a query sees, its
    own included, and 0 for a layer of full attention; it is empty where all layers are. `no_rope` has for each layer
    whether its queries and keys stay as they are in place of being turned; it is empty where all are turned.
    `query_temperature`: queries are scaled by their position.

    `sinks`: a logit of each head joins the sum that its softmax divides by. `attn_out_bias`: what attention gives has a
    bias. `biased_experts`: router and experts have biases, and it is logits that choose a token's experts, of which a
    softmax makes their weights. `dense` has for each layer of a model with experts whether its feed-forward block is
    dense nevertheless; it is empty where none is. `ffn_norm` is the tensor that holds the weight of the stage of that
    name.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_layout: RopeLayout = RopeLayout.HALF_SPLIT
    post_norms: bool = False
    activation: Activation = Activation.SILU
    attn_softcap: bool = False
    logit_softcap: bool = False
    windows: tuple[int, ...] = ()
    no_rope: tuple[bool, ...] = ()
    query_temperature: bool = False
    sinks: bool = False
    attn_out_bias: bool = False
    ffn_norm: str = "ffn_norm"
    experts: int = 0
    """Experts of a feed-forward block, of which each token uses `experts_used` with `expert_ffn` channels each."""
    experts_used: int = 0
    expert_ffn: int = 0
    expert_groups: ExpertGroups | None = None
    """Where a token may choose experts of some groups only."""
    biased_experts: bool = False
    router: Router = Router.SOFTMAX
    router_bias: bool = False
    """Whether experts are chosen by what the router gives plus a bias, which their weights do not have."""
    normalised_experts: bool = True
    """Whether the weights of a token's experts are divided by their sum."""
    scaled_experts: bool = False
    """Whether they are multiplied by a number of the model."""
    shared_expert_ffn: int = 0
    """Channels of the expert that every token uses beside those it chooses; 0 where there is none."""
    shared_expert_gate: bool = True
    """Whether what that expert gives is multiplied by a gate of its own."""
    dense: tuple[bool, ...] = ()
    recurrent: tuple[bool, ...] = ()
    linear_key_heads: int = 0
    """Heads of queries and keys of a recurrent layer, and of its values, all of `linear_head_dim` channels."""
    linear_value_heads: int = 0
    linear_head_dim: int = 0
    conv_kernel: int = 0
    grouped_value_heads: bool = False
    """Whether value heads that share a key head stand side by side in the file, in place of across the key heads."""
    fused_beta_alpha: bool = False
    """Whether one product gives beta and alpha of recurrent layers: key head by key head, those of its value heads."""
    gated_attention: bool = False
    rope_dim: int = 0
    latent: LatentAttention | None = None
    """Of latent attention, which has `head_dim` and `kv_heads` as the scores meet them."""

    def mixer(self, layer: int) -> TokenMixer:
        """What `layer` has: attention, or a recurrence in its place."""
        return TokenMixer.RECURRENCE if self.recurrent and self.recurrent[layer] else TokenMixer.ATTENTION

    def feed_forward(self, layer: int) -> BlockKind:
        """What the feed-forward block of `layer` is."""
        is_dense = not self.experts or (bool(self.dense) and self.dense[layer])
        return BlockKind.DENSE if is_dense else BlockKind.EXPERTS

    def has_stage(self, stage: Stage, layer: int) -> bool:
        """Whether layers of that kind have `stage`."""
        return stage.mixer in (None, self.mixer(layer)) and stage.block in (None, self.feed_forward(layer))

    def layers_with(self, mixer: TokenMixer) -> tuple[int, ...]:
        """The layers that have attention, or those that have a recurrence."""
        return tuple(layer for layer in range(self.layers) if self.mixer(layer) is mixer)

    def window(self, layer: int | None) -> int:
        """How many positions a query of `layer` sees, its own included; 0 where it sees all before it."""
        return self.windows[layer] if self.windows and layer is not None else 0

    def has_rope(self, layer: int | None) -> bool:
        """Whether queries and keys of `layer` are turned."""
        return not (self.no_rope and layer is not None and self.no_rope[layer])

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def value_dim(self) -> int:
        """Channels of a head of values."""
        return self.head_dim if self.latent is None else self.latent.value_dim

    @property
    def q_head_width(self) -> int:
        """Channels of a head of Q in a fused Q‖K‖V stage: the query, and behind it the gate where there is one."""
        return 2 * self.head_dim if self.gated_attention else self.head_dim

    @property
    def qkv_width(self) -> int:
        """Channels of the fused Q‖K‖V stages."""
        return self.heads * self.q_head_width + 2 * self.kv_width

    @property
    def rotated(self) -> int:
        """Channels of a head that RoPE turns, the first ones."""
        return self.rope_dim or self.head_dim

    @property
    def linear_key_width(self) -> int:
        return self.linear_key_heads * self.linear_head_dim

    @property
    def linear_value_width(self) -> int:
        return self.linear_value_heads * self.linear_head_dim

    @property
    def linear_qkv_width(self) -> int:
        """Channels of the fused Q‖K‖V stages of recurrent layers, which their convolution goes over."""
        return 2 * self.linear_key_width + self.linear_value_width

    @property
    def value_heads_by_key_head(self) -> tuple[int, ...]:
        """For each value head of a recurrent layer, the number it has where they are counted key head by key head: most
        files count them across the key heads."""
        return tuple(range(self.linear_value_heads)) if self.grouped_value_heads else self.value_heads_across

    @property
    def value_heads_across(self) -> tuple[int, ...]:
        """The same where value heads are counted across the key heads."""
        keys = self.linear_key_heads
        each = self.linear_value_heads // (keys or 1)
        return tuple(head % keys * each + head // keys for head in range(self.linear_value_heads))

    @property
    def linear_state_width(self) -> int:
        """Numbers of the state of a recurrent layer: `[value heads, value channels, key channels]`."""
        return self.linear_value_width * self.linear_head_dim

    def part(self, part: Part) -> slice:
        """Columns of `part` in a fused Q‖K‖V stage."""
        q, kv = self.heads * self.q_head_width, self.kv_width
        linear_k = self.linear_key_width
        latent, shared = (0, 0) if self.latent is None else (self.latent.rank, self.latent.rope)
        return {
            Part.WHOLE: slice(None),
            Part.Q: slice(0, q),
            Part.K: slice(q, q + kv),
            Part.V: slice(q + kv, q + 2 * kv),
            Part.LINEAR_Q: slice(0, linear_k),
            Part.LINEAR_K: slice(linear_k, 2 * linear_k),
            Part.LINEAR_V: slice(2 * linear_k, self.linear_qkv_width),
            Part.LATENT: slice(0, latent),
            Part.LATENT_KEY: slice(latent, latent + shared),
        }[part]


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
        if self.axes[-1] is Axis.EXPERT and self.op in _CHOICES:
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


@dataclass(frozen=True, slots=True)
class LayerKind:
    """In what a layer differs from others of its model: how many positions a query sees (0: all), RoPE, experts, and
    whether it has a recurrence in place of attention."""

    window: int
    rope: bool
    experts: bool
    recurrent: bool = False

    def differences(self) -> tuple[tuple[object, str, str], ...]:
        """For each of those: what it is, the mark of it (a space for what is usual), and words."""
        return (
            (True, "o", str(TokenMixer.RECURRENCE)) if self.recurrent else (False, " ", str(TokenMixer.ATTENTION)),
            (self.window, "~", f"a window of {self.window} positions") if self.window else (0, " ", "all positions"),
            (True, " ", "RoPE") if self.rope else (False, "-", "no RoPE"),
            (True, "+", "experts") if self.experts else (False, " ", "dense"),
        )


class StageGraph:
    """The stages of a model as a directed acyclic graph, in execution order."""

    def __init__(self, stages: Iterable[Stage], layers: int, config: GraphConfig | None) -> None:
        self.stages = tuple(stages)
        self.layers = layers
        self.config = config
        self._by_name = {stage.name: stage for stage in self.stages}

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Stage:
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Stage names in execution order."""
        return tuple(self._by_name)

    @property
    def has_latent_attention(self) -> bool:
        """Whether some of its stages are those of latent attention."""
        return not LATENT_STAGES.isdisjoint(self._by_name)

    @cached_property
    def row_widths(self) -> Mapping[str, int]:
        """Widths of the stages that hold channels of all tokens: all but attention maps, logits and states."""
        return MappingProxyType(
            {s.name: s.width for s in self.stages if not s.is_attention_map and not s.of_last_position}
        )

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes in execution order: layer by layer, then the stages of the model."""
        return tuple(self._walk())

    @cached_property
    def order(self) -> Mapping[Node, int]:
        """Position of each node in execution order."""
        return MappingProxyType({node: index for index, node in enumerate(self.nodes)})

    @cached_property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer; empty where nothing is known of them."""
        config = self.config
        if config is None:
            return ()
        return tuple(
            LayerKind(
                config.window(layer),
                config.has_rope(layer),
                Node(layer, ROUTER) in self.order,
                config.mixer(layer) is TokenMixer.RECURRENCE,
            )
            for layer in range(self.layers)
        )

    @cached_property
    def layer_marks(self) -> tuple[str, ...]:
        """A character for the kind of each layer, where layers differ: `o` a recurrence, `~` a window, `-` no RoPE, `+`
        experts, `*` several of them."""
        marks = ("".join(mark for _, mark, _ in found if mark != " ") for found in self._differences)
        return tuple(" " if not found else found if len(found) == 1 else "*" for found in marks)

    @cached_property
    def _differences(self) -> tuple[tuple[tuple[object, str, str], ...], ...]:
        """Of each layer, what layers of this model differ in: as `LayerKind.differences`."""
        each = [kind.differences() for kind in self.layer_kinds]
        mixed = [len({value for value, _, _ in column}) > 1 for column in zip(*each, strict=True)]
        return tuple(tuple(compress(found, mixed)) for found in each)

    def kind_words(self, layer: int | None) -> str:
        """The kind of a layer in words; empty where all are alike."""
        if layer is None or layer >= len(self.layer_kinds):
            return ""
        return ", ".join(words for _, _, words in self._differences[layer])

    def _walk(self) -> Iterator[Node]:
        for layer in range(self.layers):
            for stage in self.stages:
                if self.config is not None and not self.config.has_stage(stage, layer):
                    continue
                if stage.scope is Scope.LAYER or (stage.scope is Scope.FIRST_LAYER and layer == 0):
                    yield Node(layer, stage.name)
        for stage in self.stages:
            if stage.scope is Scope.MODEL:
                yield Node(None, stage.name)

    @cached_property
    def rope_parts(self) -> Mapping[str, frozenset[Part]]:
        """Stages whose channels lie in the order of the RoPE layout, with the parts of them that do.

        Those are the rotated stages and what they are made from, back to the matrix product whose rows set the order,
        or to where a graph from names lacks what lies between.
        """
        found: dict[str, frozenset[Part]] = {}
        pending = [(stage, Part.WHOLE) for stage in self.stages if stage.op in (Op.ROPE, Op.POSITION_SCALE)]
        while pending:
            stage, part = pending.pop()
            found[stage.name] = found.get(stage.name, frozenset()) | {part}
            if stage.op is not Op.MATMUL:
                sources = [(self[entry.stage], entry.part) for entry in stage.inputs if not entry.previous_layer]
                pending += [
                    (source, part if of is Part.WHOLE else of) for source, of in sources if source.op in _KEEP_ORDER
                ]
        return MappingProxyType(found)

    def passes_through(self, node: Node) -> bool:
        """Whether `node` is its input as it is, as queries and keys are in a layer without RoPE."""
        return self.config is not None and self[node.stage].op is Op.ROPE and not self.config.has_rope(node.layer)

    def siblings(self, name: str) -> tuple[Stage, ...]:
        """Other stages of the same op, inputs, width and kind of layer as stage `name`, as gate and up are."""

        def kind(stage: Stage) -> tuple[object, ...]:
            return stage.op, stage.inputs, stage.width, stage.mixer, stage.block

        return tuple(stage for stage in self.stages if kind(stage) == kind(self[name]) and stage.name != name)

    def inputs(self, node: Node) -> tuple[Node, ...]:
        """The nodes that `node` is computed from, one for each of its `entries`."""
        return tuple(source for source, _ in self._sources(node))

    def entries(self, node: Node) -> tuple[Input, ...]:
        """Those inputs of the stage of `node` that its layer has.

        In a graph from names, layer 0 has no inputs from a layer before if the embedding was not captured, and stages
        of the model have none where no layer was.
        """
        return tuple(entry for _, entry in self._sources(node))

    def _sources(self, node: Node) -> Iterator[tuple[Node, Input]]:
        for entry in self[node.stage].inputs:
            source = self._resolve(node, entry)
            if source.stage in self and source.layer != -1 and self._is_in_layer(source):
                yield source, entry

    def _is_in_layer(self, node: Node) -> bool:
        """Whether layers of that kind have the stage; any layer has, where nothing is known of kinds."""
        return self.config is None or node.layer is None or self.config.has_stage(self[node.stage], node.layer)

    def _resolve(self, node: Node, entry: Input) -> Node:
        if self[entry.stage].scope is Scope.MODEL:
            return Node(None, entry.stage)
        if node.layer is None:
            return Node(self.layers - 1, entry.stage)
        if not entry.previous_layer:
            return Node(node.layer, entry.stage)
        return Node(node.layer - 1, entry.stage) if node.layer else Node(0, ENTRY)


def graph_for(config: GraphConfig) -> StageGraph:
    """The stage graph of a decoder with the dimensions and options of `config`."""
    return StageGraph(_stages(config, *_blocks(config)), config.layers, config)


def _blocks(config: GraphConfig) -> Iterator[FeedForwardKind]:
    if not config.experts or any(config.dense):
        yield _DENSE
    if config.experts:
        yield _SHARED_EXPERTS if config.shared_expert_ffn else _EXPERTS


def with_stages_of_its_kind(graph: StageGraph) -> StageGraph:
    """A graph from names with the stages that every model of that kind has, also those that were not captured."""
    names = set(graph.names)
    unknown = _guessed(names, graph.layers)
    blocks = _blocks_of(names, unknown)
    plain = replace(
        unknown, qkv_bias=False, qk_norm=False, post_norms=False, attn_softcap=False, logit_softcap=False,
        router_bias=False, scaled_experts=False,
    )  # fmt: skip
    return graph_from_names({*names, *(stage.name for stage in _stages(plain, *blocks))}, graph.layers)


def graph_from_names(names: Iterable[str], layers: int) -> StageGraph:
    """A graph for a capture that says nothing but its file names: order and edges, but widths of 0.

    Keeps the stages that occur in `names` (canonical names); the edges skip the stages that are missing.
    Unknown names are left out: the caller lists them.
    """
    present = set(names)
    unknown = _guessed(present, layers)
    blocks = _blocks_of(present, unknown)
    full = {stage.name: stage for stage in _both_forms(unknown, present, *blocks)}

    def nearest(entry: Input, crossed: bool = False, part: Part = Part.WHOLE) -> tuple[Input, ...]:
        crossed = crossed or entry.previous_layer
        part = part if entry.part is Part.WHOLE else entry.part
        if entry.stage in present:
            return (Input(entry.stage, part, crossed),)
        # What a bias is added to has its columns; a matrix product makes them from all of its input.
        inner_part = part if full[entry.stage].op is Op.BIAS else Part.WHOLE
        # A path ends before a second layer boundary: without a captured residual stage, nothing is known beyond.
        return tuple(
            found
            for inner in full[entry.stage].inputs
            if not (crossed and inner.previous_layer)
            for found in nearest(inner, crossed, inner_part)
        )

    def thinned(stage: Stage) -> Stage:
        inputs = tuple(dict.fromkeys(found for entry in stage.inputs for found in nearest(entry)))
        return replace(stage, inputs=inputs, width=0, params=())

    return StageGraph([thinned(stage) for stage in full.values() if stage.name in present], layers, None)


def _both_forms(config: GraphConfig, names: Collection[str], *blocks: FeedForwardKind) -> Iterator[Stage]:
    """All stages; of latent attention that makes keys and values for each head also those of the other form, as where
    captures of both are compared: what only one form has is then no stage that both must have."""
    if config.latent is None or config.latent.absorbed:
        yield from _stages(config, *blocks)
        return
    absorbed = replace(config, latent=replace(config.latent, absorbed=True))
    missing = _own_names(_attention_stages, absorbed) - _own_names(_attention_stages, config)
    is_mixed = not missing.isdisjoint(names)
    others = [stage for stage in _attention_stages(absorbed) if stage.name in missing]
    for stage in _stages(config, *blocks):
        if stage.op in (Op.SCORES, Op.ATTEND):
            yield from (other for other in others if (other.op is Op.ATTEND) == (stage.op is Op.ATTEND))
        yield replace(stage, extension=True) if is_mixed and stage.op is Op.HEAD_JOIN else stage


def graph_from_tensors(
    tensors: Collection[str], activation: Activation, *, gated_attention: bool, at_least: int
) -> StageGraph:
    """A graph for a model of an architecture that is not known: the stages that a model with `tensors` may have.

    Those are names as GGUF has them. Dimensions and widths are 0. A stage of the graph whose parameters are not among
    `tensors` has no place in the model: `Stage.params` tells. There are `at_least` so many layers.
    """
    by_layer: dict[int, set[str]] = {}
    for name in tensors:
        match = _LAYER_TENSOR.fullmatch(name)
        if match is not None and int(match[1]) < MAX_LAYERS:
            by_layer.setdefault(int(match[1]), set()).add(match[2])
    layers = max(at_least, 1 + max(by_layer, default=-1))
    every = set().union(*by_layer.values())
    # Some give the name of the first to what is normalised before the feed-forward block.
    post_norms = "post_attention_norm.weight" in every and not {"ffn_norm.weight", "post_ffw_norm.weight"}.isdisjoint(
        every
    )
    separate = "attn_q.bias" in every or "attn_qkv.bias" in every
    config = GraphConfig(
        "unknown", layers, 0, 0, 0, 0, 0, 0, qkv_bias=separate, qk_norm="attn_q_norm.weight" in every,
        post_norms=post_norms, activation=activation, query_temperature=True, attn_softcap=True,
        sinks="attn_sinks.weight" in every, attn_out_bias="attn_output.bias" in every,
        ffn_norm="ffn_norm" if post_norms or "ffn_norm.weight" in every else "post_attention_norm",
        experts=1, experts_used=1, biased_experts="ffn_gate_exps.bias" in every,
        router_bias="exp_probs_b.bias" in every, scaled_experts=True, shared_expert_ffn=1,
        shared_expert_gate="ffn_gate_inp_shexp.weight" in every,
        gated_attention=gated_attention, grouped_value_heads="ssm_ba.weight" in every,
        fused_beta_alpha="ssm_ba.weight" in every,
        recurrent=tuple({"attn_qkv.weight", "ssm_a"} <= by_layer.get(layer, set()) for layer in range(layers)),
    )  # fmt: skip
    experts = _SHARED_EXPERTS if "ffn_up_shexp.weight" in every else _EXPERTS
    routed = (experts,) if "ffn_gate_inp.weight" in every else ()
    dense = (_DENSE,) if "ffn_down.weight" in every or not routed else ()
    # Some have a dense block and experts in one layer.
    stages = [replace(stage, width=0, block=None) for stage in _stages(config, *routed, *dense)]
    return StageGraph(stages, layers, config)


_LAYER_TENSOR = re.compile(r"blk\.([0-9]{1,9})\.(.+)")


def canonical_name(name: str) -> str:
    """The canonical stage name for `name`, which may be an alias or in another case."""
    lowered = name.strip().lower()
    return ALIASES.get(lowered, lowered)


@cache
def known_stages() -> Mapping[str, Stage]:
    """Every stage that a file can have, by its name, in execution order, extensions included; widths are 0."""
    kinds = [_with_all_stages(activation, biased) for activation in Activation for biased in (False, True)]
    kinds += [replace(kinds[0], latent=_any_latent(absorbed=absorbed)) for absorbed in (False, True)]
    found: dict[str, Stage] = {}
    for kind in kinds:
        for stage in _stages(kind, _DENSE, _SHARED_EXPERTS):
            found.setdefault(stage.name, stage)
    return MappingProxyType(found)


@cache
def known_names() -> tuple[str, ...]:
    """The names of `known_stages`."""
    return tuple(known_stages())


def _with_all_stages(activation: Activation, biased: bool, layers: int = 1) -> GraphConfig:
    """What stands in for the dimensions of a model where names only are known.

    `biased`: what comes out of the attention has a bias, and so have experts.
    """
    return GraphConfig(
        "unknown", layers, 0, 0, 0, 0, 0, 0, qkv_bias=True, qk_norm=True, post_norms=True, activation=activation,
        query_temperature=True,
        attn_softcap=True, logit_softcap=True, attn_out_bias=biased, experts=1, experts_used=1, biased_experts=biased,
        router_bias=True, scaled_experts=True, shared_expert_ffn=1, recurrent=(True,) * layers, fused_beta_alpha=True,
        gated_attention=True,
    )  # fmt: skip


def _any_latent(*, absorbed: bool) -> LatentAttention:
    return LatentAttention(0, 1, 0, 0, 0, absorbed)


def _guessed(names: Collection[str], layers: int) -> GraphConfig:
    """What `names` of stages say of their model.

    A recurrence, and a gate behind the attention, which would change what others are made from, are there only where a
    name speaks of them.
    """
    of_gates = {kind: {name for name, _ in gates.dense + gates.experts} for kind, gates in _GATES.items()}
    activation = next((kind for kind, found in of_gates.items() if not found.isdisjoint(names)), Activation.SILU)
    full = _with_all_stages(activation, not _OF_BIASES.isdisjoint(names), layers)
    full = replace(full, shared_expert_gate=not _OF_SHARED_GATES.isdisjoint(names))
    if not LATENT_STAGES.isdisjoint(names):
        full = replace(full, latent=_any_latent(absorbed=_OF_EXPANDED.isdisjoint(names)))
    of_hybrids = _own_names(_recurrent_stages, full) | {"attn_gate_sigmoid", "attn_gated"}
    if of_hybrids.isdisjoint(names):
        return replace(full, recurrent=(), gated_attention=False)
    return replace(full, fused_beta_alpha="linear_attn_mixed_ba" in names)


def _blocks_of(names: Collection[str], unknown: GraphConfig) -> tuple[FeedForwardKind, ...]:
    """The kinds of feed-forward blocks that `names` of stages speak of; the dense one where they speak of none."""
    present = set(names)
    of_shared = _own_names(_stages_with_shared_expert, unknown) - _own_names(_expert_stages, unknown)
    experts = _SHARED_EXPERTS if present & of_shared else _EXPERTS
    dense = present & _own_names(_dense_stages, unknown)
    return (*((_DENSE,) if dense else ()), *((experts,) if present & _own_names(_expert_stages, unknown) else ())) or (
        _DENSE,
    )


_OF_BIASES = frozenset(
    {"attn_out_matmul", "ffn_moe_gate_biased", "ffn_moe_up_biased", "ffn_moe_down_biased", "ffn_moe_weights_softmax"}
)
"""Stages that a model has only where what comes out of its attention and its experts have biases."""

_OF_EXPANDED = frozenset({"mla_kv", "k_nope", "v_heads"})
"""Stages of latent attention that makes keys and values for each head."""

LATENT_STAGES = _OF_EXPANDED | {
    "q_a", "q_a_norm", "mla_q", "kv_cmpr_pe", "kv_cmpr", "q_nope", "q_pe_raw", "q_pe", "k_pe", "q_nope_absorbed",
    "q_latent", "k_latent", "attn_latent",
}  # fmt: skip
"""Stages that only models with latent attention have."""

_OF_SHARED_GATES = frozenset({"shared_expert_gate", "shared_expert_gate_sigmoid", "ffn_shexp_gated"})
"""Stages that a model has only where the expert that every token uses has a gate."""


def _stages(config: GraphConfig, *blocks: FeedForwardKind) -> Iterator[Stage]:
    """All stages; those of more than one feed-forward block where a capture does not tell which its layers have."""
    yield Stage(ENTRY, Op.EMBED, (), config.hidden, ("token_embd",), scope=Scope.FIRST_LAYER, column="model")
    yield Stage(
        "attn_norm", Op.RMS_NORM, (_RESIDUAL,), config.hidden, ("attn_norm",), column="attention"
    )  # fmt: skip
    mixed = [Input("attn_post_norm" if config.post_norms else "attn_out")]
    if config.recurrent:
        yield from _recurrent_stages(config)
        mixed.append(Input("linear_attn_out"))
    yield from _attention_stages(config)
    yield Stage("post_attn_residual", Op.ADD, (_RESIDUAL, *mixed), config.hidden, column="attention")
    yield Stage("ffn_norm", Op.RMS_NORM, (Input("post_attn_residual"),), config.hidden, (config.ffn_norm,))
    for block in blocks:
        yield from (replace(stage, block=block.kind) for stage in block.stages(config))
    outputs = tuple(Input(block.output) for block in blocks)
    if config.post_norms:
        yield Stage("ffn_post_norm", Op.RMS_NORM, outputs, config.hidden, ("post_ffw_norm",), extension=True)
        outputs = (Input("ffn_post_norm"),)
    yield Stage(LAYER_OUTPUT, Op.ADD, (Input("post_attn_residual"), *outputs), config.hidden)
    yield Stage(
        "final_norm", Op.RMS_NORM, (Input(LAYER_OUTPUT),), config.hidden, ("output_norm",),
        scope=Scope.MODEL, column="model",
    )  # fmt: skip
    yield Stage(
        "lm_head", Op.MATMUL, (Input("final_norm"),), config.vocabulary, ("output",),
        scope=Scope.MODEL, axes=(Axis.TOKEN, Axis.VOCABULARY), column="model",
    )  # fmt: skip
    if config.logit_softcap:
        yield Stage(
            "logit_softcap", Op.SOFTCAP, (Input("lm_head"),), config.vocabulary,
            scope=Scope.MODEL, axes=(Axis.TOKEN, Axis.VOCABULARY), column="model", extension=True,
        )  # fmt: skip


_RESIDUAL = Input(LAYER_OUTPUT, previous_layer=True)
"""What enters a layer."""


def _attention_stages(config: GraphConfig) -> Iterator[Stage]:
    if config.latent is not None:
        yield from _latent_stages(config, config.latent)
        return
    q, k, v = "attn_q", "attn_k", "attn_v"
    per_token, of_heads = _of_attention(), _of_attention(head_size=config.head_dim)
    yield per_token("qkv_matmul", Op.MATMUL, (Input("attn_norm"),), config.qkv_width, (q, k, v))
    fused = "qkv_matmul"
    if config.qkv_bias:
        fused = "qkv_bias"
        yield per_token(fused, Op.BIAS, (Input("qkv_matmul"),), config.qkv_width, (q, k, v))
    q_rope, k_rope = Input(fused, Part.Q), Input(fused, Part.K)
    if config.qk_norm:
        yield of_heads("q_norm", Op.HEAD_RMS_NORM, (q_rope,), config.q_width, ("attn_q_norm",), extension=True)
        yield of_heads("k_norm", Op.HEAD_RMS_NORM, (k_rope,), config.kv_width, ("attn_k_norm",), extension=True)
        q_rope, k_rope = Input("q_norm"), Input("k_norm")
    yield of_heads("q_post_rope", Op.ROPE, (q_rope,), config.q_width)
    yield of_heads("k_post_rope", Op.ROPE, (k_rope,), config.kv_width)
    queries = _scaled_queries(config, "q_post_rope", of_heads)
    yield from queries
    yield from _map_stages(config, queries[-1].name if queries else "q_post_rope")
    yield of_heads("attention", Op.ATTEND, (Input("attn_softmax"), Input(fused, Part.V)), config.q_width)
    attended = "attention"
    if config.gated_attention:
        attended, gate = "attn_gated", "attn_gate_sigmoid"
        yield of_heads(gate, Op.HEAD_GATE, (Input(fused, Part.Q),), config.q_width, extension=True)
        yield per_token(
            attended, Op.MULTIPLY, (Input("attention"), Input(gate)), config.q_width, extension=True
        )  # fmt: skip
    yield from _projection_stages(config, attended)


def _of_attention(**fields: Any) -> Callable[..., Stage]:
    return partial(Stage, column="attention", mixer=TokenMixer.ATTENTION, **fields)


def _scaled_queries(config: GraphConfig, queries: str, of_heads: Callable[..., Stage]) -> tuple[Stage, ...]:
    """The stage `queries` scaled by position, where the model does that."""
    if not config.query_temperature:
        return ()
    stage = of_heads("q_temp_scaled", Op.POSITION_SCALE, (Input(queries),), config.q_width)
    return (replace(stage, extension=True),)


def _map_stages(config: GraphConfig, queries: str, keys: str = "k_post_rope") -> Iterator[Stage]:
    """The attention maps of the stages `queries` and `keys`."""
    attention_map = _of_attention(axes=(Axis.HEAD, Axis.QUERY, Axis.KEY))
    yield attention_map("attn_scores", Op.SCORES, (Input(queries), Input(keys)), config.heads)
    scores = "attn_scores"
    if config.attn_softcap:
        scores = "attn_softcap"
        yield attention_map(scores, Op.SOFTCAP, (Input("attn_scores"),), config.heads, extension=True)
    sinks = ("attn_sinks",) if config.sinks else ()
    yield attention_map("attn_softmax", Op.SOFTMAX, (Input(scores),), config.heads, sinks)


def _projection_stages(config: GraphConfig, attended: str) -> Iterator[Stage]:
    """What the stage `attended` becomes on its way out of the attention."""
    per_token, biased = _of_attention(), config.attn_out_bias
    product = "attn_out_matmul" if biased else "attn_out"
    yield per_token(product, Op.MATMUL, (Input(attended),), config.hidden, ("attn_output",), extension=biased)
    if biased:
        yield per_token("attn_out", Op.BIAS, (Input(product),), config.hidden, ("attn_output",))
    if config.post_norms:
        yield per_token(
            "attn_post_norm", Op.RMS_NORM, (Input("attn_out"),), config.hidden, ("post_attention_norm",),
            extension=True,
        )  # fmt: skip


def _latent_stages(config: GraphConfig, latent: LatentAttention) -> Iterator[Stage]:
    """Latent attention: rows of `rank` channels in place of keys and values, of which each head makes its own."""
    heads, rank, rope = config.heads, latent.rank, latent.rope
    stage, of_heads = _of_attention(extension=True), partial(_of_attention, extension=True)
    source = Input("attn_norm")
    if latent.query_rank:
        yield stage("q_a", Op.MATMUL, (source,), latent.query_rank, ("attn_q_a",))
        yield stage("q_a_norm", Op.RMS_NORM, (Input("q_a"),), latent.query_rank, ("attn_q_a_norm",))
        source = Input("q_a_norm")
    q = "attn_q_b" if latent.query_rank else "attn_q"
    yield stage("mla_q", Op.MATMUL, (source,), heads * (latent.nope + rope), (q,))
    yield stage("kv_cmpr_pe", Op.MATMUL, (Input("attn_norm"),), rank + rope, ("attn_kv_a_mqa",))
    yield stage("kv_cmpr", Op.RMS_NORM, (Input("kv_cmpr_pe", Part.LATENT),), rank, ("attn_kv_a_norm",))
    yield of_heads(head_size=latent.nope)("q_nope", Op.HEAD_FRONT, (Input("mla_q"),), heads * latent.nope)
    of_rope = of_heads(head_size=rope)
    yield of_rope("q_pe_raw", Op.HEAD_BACK, (Input("mla_q"),), heads * rope)
    yield of_rope("q_pe", Op.ROPE, (Input("q_pe_raw"),), heads * rope)
    yield of_rope("k_pe", Op.ROPE, (Input("kv_cmpr_pe", Part.LATENT_KEY),), rope)
    yield from (_absorbed_stages if latent.absorbed else _expanded_stages)(config, latent)
    yield from _projection_stages(config, "attention")


def _absorbed_stages(config: GraphConfig, latent: LatentAttention) -> Iterator[Stage]:
    """All heads meet the row itself: what makes keys of it is multiplied into the queries, and values come last."""
    rank, joined = latent.rank, _of_attention(head_size=latent.key_dim, extension=True)
    of_latents = _of_attention(head_size=rank, extension=True)
    wide = config.heads * rank
    yield of_latents("q_nope_absorbed", Op.HEAD_MATMUL, (Input("q_nope"),), wide, ("attn_k_b",))
    yield joined("q_latent", Op.HEAD_JOIN, (Input("q_nope_absorbed"), Input("q_pe")), config.q_width)
    yield joined("k_latent", Op.HEAD_JOIN, (Input("kv_cmpr"), Input("k_pe")), config.kv_width)
    queries = _scaled_queries(config, "q_latent", joined)
    yield from queries
    yield from _map_stages(config, queries[-1].name if queries else "q_latent", "k_latent")
    yield of_latents("attn_latent", Op.ATTEND, (Input("attn_softmax"), Input("kv_cmpr")), wide)
    yield _of_attention(head_size=latent.value)(
        "attention", Op.HEAD_MATMUL, (Input("attn_latent"),), config.heads * latent.value, ("attn_v_b",)
    )


def _expanded_stages(config: GraphConfig, latent: LatentAttention) -> Iterator[Stage]:
    """Each head makes a key and a value of the row."""
    heads, nope, joined = config.heads, latent.nope, _of_attention(head_size=latent.key_dim)
    of_values = _of_attention(head_size=latent.value)
    yield _of_attention(extension=True)(
        "mla_kv", Op.MATMUL, (Input("kv_cmpr"),), heads * (nope + latent.value), ("attn_kv_b",)
    )
    yield _of_attention(head_size=nope, extension=True)(
        "k_nope", Op.HEAD_FRONT, (Input("mla_kv"),), heads * nope
    )  # fmt: skip
    yield replace(of_values("v_heads", Op.HEAD_BACK, (Input("mla_kv"),), heads * latent.value), extension=True)
    yield joined("q_post_rope", Op.HEAD_JOIN, (Input("q_nope"), Input("q_pe")), config.q_width)
    yield joined("k_post_rope", Op.HEAD_JOIN, (Input("k_nope"), Input("k_pe")), config.kv_width)
    queries = _scaled_queries(config, "q_post_rope", joined)
    yield from queries
    yield from _map_stages(config, queries[-1].name if queries else "q_post_rope")
    yield of_values("attention", Op.ATTEND, (Input("attn_softmax"), Input("v_heads")), heads * latent.value)


def _recurrent_stages(config: GraphConfig) -> Iterator[Stage]:
    """The gated delta rule (Yang et al. 2024, arXiv:2412.06464), in place of attention."""
    keys, values, heads = config.linear_key_width, config.linear_value_width, config.linear_value_heads
    stage = partial(Stage, column="attention", mixer=TokenMixer.RECURRENCE, extension=True)
    of_heads = partial(stage, head_size=config.linear_head_dim)
    fused, norm = config.linear_qkv_width, Input("attn_norm")
    yield stage("linear_attn_qkv_mixed", Op.MATMUL, (norm,), fused, ("attn_qkv",))
    yield stage("linear_attn_z", Op.MATMUL, (norm,), values, ("attn_gate",))
    yield from _beta_and_alpha(config, stage)
    yield stage("conv_output_raw", Op.CONVOLUTION, (Input("linear_attn_qkv_mixed"),), fused, ("ssm_conv1d",))
    yield stage("conv_output_silu", Op.SILU, (Input("conv_output_raw"),), fused)
    for name, part in (("q_conv_predelta", Part.LINEAR_Q), ("k_conv_predelta", Part.LINEAR_K)):
        yield of_heads(name, Op.HEAD_L2_NORM, (Input("conv_output_silu", part),), keys)
    yield stage("beta_sigmoid", Op.SIGMOID, (Input("linear_attn_beta"),), heads)
    yield stage("a_softplus", Op.SOFTPLUS, (Input("linear_attn_alpha"),), heads, ("ssm_dt",))
    yield stage("linear_attn_gate", Op.DECAY, (Input("a_softplus"),), heads, ("ssm_a",))
    from_tokens = (
        Input("k_conv_predelta"), Input("conv_output_silu", Part.LINEAR_V), Input("linear_attn_gate"),
        Input("beta_sigmoid"),
    )  # fmt: skip
    yield stage(
        "linear_attn_state", Op.DELTA_STATE, from_tokens, config.linear_state_width,
        head_size=config.linear_head_dim**2,
    )  # fmt: skip
    read = (Input("linear_attn_state"), Input("q_conv_predelta"), *from_tokens)
    yield of_heads("linear_attn_output", Op.DELTA_OUTPUT, read, values)
    yield of_heads("linear_attn_norm", Op.HEAD_RMS_NORM, (Input("linear_attn_output"),), values, ("ssm_norm",))
    yield stage("linear_attn_z_silu", Op.SILU, (Input("linear_attn_z"),), values)
    gated = (Input("linear_attn_norm"), Input("linear_attn_z_silu"))
    yield stage("linear_attn_gated", Op.MULTIPLY, gated, values)
    yield stage("linear_attn_out", Op.MATMUL, (Input("linear_attn_gated"),), config.hidden, ("ssm_out",))


def _beta_and_alpha(config: GraphConfig, stage: Callable[..., Stage]) -> Iterator[Stage]:
    """What the learning rate and the decay of each value head are made of."""
    heads, norm = config.linear_value_heads, Input("attn_norm")
    if not config.fused_beta_alpha:
        yield stage("linear_attn_beta", Op.MATMUL, (norm,), heads, ("ssm_beta",))
        yield stage("linear_attn_alpha", Op.MATMUL, (norm,), heads, ("ssm_alpha",))
        return
    fused, each = Input("linear_attn_mixed_ba"), heads // (config.linear_key_heads or 1)
    yield stage(fused.stage, Op.MATMUL, (norm,), 2 * heads, ("ssm_ba",))
    yield stage("linear_attn_beta", Op.HEAD_FRONT, (fused,), heads, head_size=each)
    yield stage("linear_attn_alpha", Op.HEAD_BACK, (fused,), heads, head_size=each)


_Gate = tuple[tuple[str, Op], ...]
"""The stages from the gate to what `down` multiplies; the first reads the gate, the last one `up` as well."""


@dataclass(frozen=True, slots=True)
class _Gates:
    dense: _Gate
    experts: _Gate


_GATES: Mapping[Activation, _Gates] = MappingProxyType(
    {
        Activation.SILU: _Gates(
            (("ffn_silu", Op.SILU), ("ffn_swigl", Op.MULTIPLY)),
            (("ffn_moe_silu", Op.SILU), ("ffn_moe_swiglu", Op.MULTIPLY)),
        ),
        Activation.GELU_TANH: _Gates(
            (("ffn_gelu", Op.GELU), ("ffn_geglu", Op.MULTIPLY)),
            (("ffn_moe_gelu", Op.GELU), ("ffn_moe_geglu", Op.MULTIPLY)),
        ),
        Activation.SWIGLU_OAI: _Gates(
            (("ffn_swiglu_oai", Op.SWIGLU_OAI),), (("ffn_moe_swiglu_oai", Op.SWIGLU_OAI),)
        ),
    }
)  # fmt: skip
"""The stages of each activation."""


def _gated(gate: _Gate, source: str, up: str, stage: Callable[..., Stage]) -> Iterator[Stage]:
    """The stages of `gate`, made by `stage`, from the stages `source` and `up`."""
    for name, op in gate:
        last = (Input(up),) if name == gate[-1][0] else ()
        yield stage(name, op, (Input(source), *last))
        source = name


def _dense_stages(config: GraphConfig) -> Iterator[Stage]:
    gate = _GATES[config.activation].dense
    yield Stage("ffn_gate", Op.MATMUL, (Input("ffn_norm"),), config.ffn, ("ffn_gate",))
    yield Stage("ffn_up", Op.MATMUL, (Input("ffn_norm"),), config.ffn, ("ffn_up",))
    extension = config.activation is not Activation.SILU
    yield from _gated(gate, "ffn_gate", "ffn_up", partial(Stage, width=config.ffn, extension=extension))
    yield Stage("ffn_out", Op.MATMUL, (Input(gate[-1][0]),), config.hidden, ("ffn_down",))


def _expert_stages(config: GraphConfig) -> Iterator[Stage]:
    used = config.experts_used
    wide = used * config.expert_ffn
    gate = _GATES[config.activation].experts
    row_of_experts = partial(Stage, axes=(Axis.TOKEN, Axis.EXPERT, Axis.CHANNEL), chosen=used, extension=True)
    choice = Input(ROUTER_CHOICE)
    biased = "_biased" if config.biased_experts else ""

    def product(name: str, source: str, width: int) -> Iterator[Stage]:
        params = (f"ffn_{name}_exps",)
        yield row_of_experts(f"ffn_moe_{name}", Op.EXPERT_MATMUL, (Input(source), choice), width, params)
        if biased:
            inputs = (Input(f"ffn_moe_{name}"), choice)
            yield row_of_experts(f"ffn_moe_{name}_biased", Op.EXPERT_BIAS, inputs, width, params)

    yield from _router_stages(config)
    yield from product("gate", "ffn_norm", wide)
    yield from product("up", "ffn_norm", wide)
    yield from _gated(gate, f"ffn_moe_gate{biased}", f"ffn_moe_up{biased}", partial(row_of_experts, width=wide))
    yield from product("down", gate[-1][0], used * config.hidden)
    inputs = (Input(f"ffn_moe_down{biased}"), Input(_weight_stages(config)[-1][0]))
    yield Stage("moe_ffn_out", Op.COMBINE_EXPERTS, inputs, config.hidden)


def _router_stages(config: GraphConfig) -> Iterator[Stage]:
    used = config.experts_used
    all_experts = partial(Stage, width=config.experts, axes=(Axis.TOKEN, Axis.EXPERT))
    chosen_experts = partial(Stage, width=used, axes=(Axis.TOKEN, Axis.EXPERT), chosen=used)
    params = ("ffn_gate_inp",)
    yield all_experts("ffn_moe_logits", Op.MATMUL, (Input("ffn_norm"),), params=params, extension=True)
    if config.biased_experts:
        yield all_experts(ROUTER, Op.BIAS, (Input("ffn_moe_logits"),), params=params)
    else:
        yield all_experts(ROUTER, _ROUTER_OPS[config.router], (Input("ffn_moe_logits"),))
    chosen_by = ROUTER
    if config.router_bias:
        chosen_by = "ffn_moe_probs_biased"
        yield all_experts(chosen_by, Op.BIAS, (Input(ROUTER),), params=("exp_probs_b",), extension=True)
    yield chosen_experts(ROUTER_CHOICE, Op.CHOOSE_EXPERTS, (Input(chosen_by),), holds_indices=True)
    inputs: tuple[Input, ...] = (Input(ROUTER), Input(ROUTER_CHOICE))
    for name, op in _weight_stages(config):
        yield chosen_experts(name, op, inputs, extension=True)
        inputs = (Input(name),)


_ROUTER_OPS: Mapping[Router, Op] = MappingProxyType({Router.SOFTMAX: Op.ROUTER_SOFTMAX, Router.SIGMOID: Op.SIGMOID})


def _weight_stages(config: GraphConfig) -> _Gate:
    """What makes the weights of a token's experts, one stage after the other."""
    found = [("ffn_moe_weights", Op.TAKE_CHOSEN)]
    if config.biased_experts:
        found.append(("ffn_moe_weights_softmax", Op.SOFTMAX_CHOSEN))
    elif config.normalised_experts:
        found.append(("ffn_moe_weights_norm", Op.NORMALISE_CHOSEN))
    if config.scaled_experts:
        found.append(("ffn_moe_weights_scaled", Op.SCALE_CHOSEN))
    return tuple(found)


def _shared_stages(config: GraphConfig) -> Iterator[Stage]:
    """The expert that every token uses, times a gate where it has one."""
    width = config.shared_expert_ffn
    norm, gate = Input("ffn_norm"), "shared_expert_gate"
    stage = partial(Stage, extension=True)
    yield stage("ffn_shexp_gate", Op.MATMUL, (norm,), width, ("ffn_gate_shexp",))
    yield stage("ffn_shexp_up", Op.MATMUL, (norm,), width, ("ffn_up_shexp",))
    yield stage("ffn_shexp_silu", Op.SILU, (Input("ffn_shexp_gate"),), width)
    yield stage("ffn_shexp_swiglu", Op.MULTIPLY, (Input("ffn_shexp_silu"), Input("ffn_shexp_up")), width)
    yield stage("ffn_shexp", Op.MATMUL, (Input("ffn_shexp_swiglu"),), config.hidden, ("ffn_down_shexp",))
    if not config.shared_expert_gate:
        return
    yield stage(gate, Op.MATMUL, (norm,), 1, ("ffn_gate_inp_shexp",))
    yield stage(f"{gate}_sigmoid", Op.SIGMOID, (Input(gate),), 1)
    yield stage("ffn_shexp_gated", Op.SCALE_ROWS, (Input("ffn_shexp"), Input(f"{gate}_sigmoid")), config.hidden)


def _stages_with_shared_expert(config: GraphConfig) -> Iterator[Stage]:
    yield from _expert_stages(config)
    yield from _shared_stages(config)
    added = (Input("moe_ffn_out"), Input("ffn_shexp_gated" if config.shared_expert_gate else "ffn_shexp"))
    yield Stage("ffn_shexp_sum", Op.ADD, added, config.hidden, extension=True)


@dataclass(frozen=True, slots=True)
class FeedForwardKind:
    """A kind of feed-forward block: its stages after the norm, of which `output` is added to the residual."""

    kind: BlockKind
    stages: Callable[[GraphConfig], Iterator[Stage]]
    output: str


_DENSE = FeedForwardKind(BlockKind.DENSE, _dense_stages, "ffn_out")
_EXPERTS = FeedForwardKind(BlockKind.EXPERTS, _expert_stages, "moe_ffn_out")
_SHARED_EXPERTS = FeedForwardKind(BlockKind.EXPERTS, _stages_with_shared_expert, "ffn_shexp_sum")


def _own_names(stages: Callable[[GraphConfig], Iterator[Stage]], config: GraphConfig) -> frozenset[str]:
    """The names of stages in a model like `config`."""
    return frozenset(stage.name for stage in stages(config))
