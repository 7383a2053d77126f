"""Dimensions and options of a model, as far as its stage graph depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aprtui.trace.graph.ops import Part
from aprtui.trace.graph.stage import BlockKind, Stage, TokenMixer


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
