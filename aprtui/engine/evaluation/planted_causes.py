"""Faults of one stage and the alternatives that say what they do: what the search for causes is measured by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.alternatives import activations, attention, positions, rows
from aprtui.engine.alternatives.call import StageCall
from aprtui.engine.alternatives.matrices import decoding, product_types, products
from aprtui.engine.evaluation.porting_bugs.bug import PortingBug
from aprtui.engine.evaluation.porting_bugs.table import PORTING_BUGS
from aprtui.engine.rounding import round_bf16
from aprtui.model.config import Yarn
from aprtui.model.model import Model
from aprtui.model.weight_types import BlockPart, ScalePacking
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PlantedCause:
    """A fault, and what says it: an alternative of one of the `names`, whose words contain `words`.

    `read` is what the first input is changed to, where no honest one would show the fault.
    """

    bug: PortingBug
    names: frozenset[str]
    words: str = ""
    read: Callable[[Array], Array] | None = None

    def nodes(self, model: Model) -> list[Node]:
        """Where it is planted: at every stage that it applies to, in the first, the middle and the last layer."""
        layers = {None, 0, model.graph.layers // 2, model.graph.layers - 1}
        everywhere = PortingBug(self.bug.compute, self.bug.at, applies=self.bug.applies)
        found = everywhere.nodes(model)
        return [node for node in model.graph.nodes if node in found and node.layer in layers]


NAMES_OF_BUGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "latent attention: the other end of heads": ("other end of heads",),
        "latent attention: turned channels first": ("parts of heads exchanged",),
        "latent attention: turned channels of the first head": ("turned part of the first head",),
        "latent attention: matrix of the next head": ("matrix of the next head",),
        "RoPE base of another model": ("RoPE base",),
        "RoPE frequencies of half the exponent": ("RoPE base",),
        "RoPE turns backwards": ("RoPE backwards",),
        "RoPE stretched by two": ("RoPE scale",),
        "RoPE on the other pairs": ("RoPE layout",),
        "RoPE positions start at 1": ("RoPE positions",),
        "RoPE of keys a position late": ("RoPE positions",),
        "RoPE left out for keys": ("RoPE left out",),
        "RoPE twice for queries": ("RoPE twice",),
        "RoPE on half of the head": ("RoPE width",),
        "RoPE angles in bf16": ("RoPE angles in bfloat16",),
        "values turned by RoPE": ("values turned",),
        "norm: another epsilon": ("norm epsilon",),
        "norm: epsilon outside the root": ("norm epsilon outside",),
        "norm: mean taken off": ("norm mean subtracted",),
        "norm: sum in place of mean": ("norm sum for mean",),
        "norm: squares summed in f16": ("norm squares in float16",),
        "norm: weight left out": ("norm weight left out",),
        "norm: 1 + weight": ("norm 1 + weight",),
        "norm: weight of the next layer": ("norm weight",),
        "norm: weights of a layer exchanged": ("norm weight",),
        "norm of the feed-forward block reads the layer's input": ("wiring",),
        "final norm left out": ("wiring",),
        "bias left out": ("bias",),
        "bias twice": ("bias",),
        "bias left out for keys": ("bias",),
        "bias left out for values in the cache": ("wiring",),
        "bias of the next layer": ("bias",),
        "rows of K and V exchanged": ("order", "weights"),
        "V read for K": ("V read for K",),
        "K read for V": ("wiring",),
        "groups by remainder": ("K/V heads by remainder",),
        "one K/V head for all": ("one K/V head",),
        "V of the neighbouring head": ("neighbouring K/V head",),
        "V of the layer before": ("wiring",),
        "K cache written a slot late": ("cache a position late",),
        "V cache written a slot late": ("cache a position late",),
        "K/V cache written a row late in decoding": ("cache a row late in decoding",),
        "newest key not written yet": ("newest not cached",),
        "newest value not written yet": ("newest not cached",),
        "scale 1/d": ("factor",),
        "scale left out": ("factor",),
        "scale of the hidden size": ("factor",),
        "mask: own key unseen": ("mask without the own key",),
        "mask: next key seen": ("mask with the next key",),
        "mask left out": ("mask left out",),
        "mask: first key taken for padding": ("first key masked",),
        "mask: last token sees itself only": ("last token alone",),
        "mask: a window that the model lacks": ("window",),
        "mask: last tile of keys left out": ("last keys left out",),
        "mask: −10 in place of −∞": ("mask of −10",),
        "mask behind the softmax": ("mask behind the softmax",),
        "softmax in f16 without its maximum": ("softmax in float16",),
        "softmax of powers of two": ("softmax temperature",),
        "sinks left out": ("sinks left out",),
        "sinks of the heads in reverse": ("sinks reversed",),
        "softmax not normalised": ("softmax not normalised",),
        "a head zero": ("zeros",),
        "heads exchanged": ("order",),
        "heads not transposed": ("heads not transposed",),
        "attention: residual of the normed input": ("wiring",),
        "attention: residual left out": ("wiring",),
        "attention: residual twice": ("residual twice",),
        "feed-forward: residual of the normed input": ("wiring",),
        "feed-forward: residual left out": ("wiring",),
        "feed-forward: residual of the layer's input": ("wiring",),
        "residual clamped": ("overflow",),
        "layer left out": ("wiring",),
        "layer used twice": ("norm weight", "weights", "bias"),
        "layers exchanged": ("norm weight", "weights", "bias"),
        "gate and up exchanged": ("weights",),
        "GELU for SiLU": ("activation",),
        "sigmoid for SiLU": ("activation",),
        "hard SiLU": ("activation",),
        "SiLU left out": ("activation", "wiring"),
        "SiLU on the other operand": ("wiring",),
        "SwiGLU of gpt-oss: not clamped": ("SwiGLU not clamped",),
        "SwiGLU of gpt-oss: 1 not added": ("SwiGLU without 1",),
        "SwiGLU of gpt-oss: sigmoid without its factor": ("SwiGLU without factor",),
        "up left out": ("up ignored",),
        "Inf by overflow": ("overflow",),
        "one NaN": ("single values",),
        "matrix transposed": ("transposed",),
        "matrix of the next layer": ("weights",),
        "minimums of blocks left out": ("minimums",),
        "halves of bytes exchanged": ("nibbles",),
        "columns of blocks reversed": ("columns of blocks",),
        "a block's scale doubled": ("block of weights",),
        "blocks of 32 rows negated": ("block of weights",),
        "a tile transposed": ("tile transposed",),
        "tail of the columns left out": ("inputs left out",),
        "half of the columns left out in the last rows": ("inputs left out",),
        "last channels zero": ("zeros",),
        "last token's row stale": ("stale",),
        "inputs of products clamped": ("input limit",),
        "scale of the block before for 8-bit inputs": ("scale of inputs",),
        "gate of the attention before the query": ("gate of the query",),
        "experts: matrices of the next one": ("matrices of the next expert",),
        "experts: added up without weights": ("weights of experts left out",),
        "experts: weights in reverse": ("weights of experts reversed",),
        "experts: the last one left out": ("last expert left out",),
        "experts: chosen without the router's bias": ("choice without the router's bias",),
        "experts: groups ignored": ("groups ignored",),
        "experts: groups chosen without the router's bias": ("groups chosen without the router's bias",),
        "experts: groups by their largest alone": ("groups by their largest",),
        "experts: the router's bias in their weights": ("weights of experts with the router's bias",),
        "experts: weights not scaled": ("weights of experts not scaled",),
        "router: softmax for the sigmoid": ("softmax for sigmoid",),
        "convolution: taps backwards": ("taps backwards",),
        "convolution: a step late": ("convolution a step late",),
        "convolution: oldest tap left out": ("oldest tap left out",),
        "recurrence: queries and keys not normalised": ("heads not normalised", "wiring"),
        "recurrence: bias of the step left out": ("bias of the step left out",),
        "recurrence: softplus left out": ("softplus left out",),
        "recurrence: beta and alpha exchanged": ("other half of heads", "wiring"),
        "recurrence: all betas before all alphas": ("halves of the row",),
        "recurrence: key heads in the other order": ("key heads by group", "key heads across"),
        "recurrence: state grows": ("sign of the decay", "factor"),
        "recurrence: no decay": ("no decay", "zeros"),
        "recurrence: linear attention": ("plain sum",),
        "recurrence: decay behind the update": ("decay behind the update",),
        "recurrence: no learning rate": ("no learning rate",),
        "recurrence: state forgotten": ("state forgotten",),
        "recurrence: state before its update": ("state before its update",),
        "recurrence: state transposed": ("state transposed",),
        "recurrence: query not scaled": ("factor",),
        "embedding of the next id": ("token ids",),
        "embedding scaled": ("factor",),
        "logits of the token before": ("token before",),
        "logits a row late": ("order",),
        "last logits zero": ("zeros",),
        "logits summed in f16": ("sums in 16 bits",),
    }
)
"""The alternatives that say what each bug does."""


def _with_parameter(
    at: tuple[str | Op, ...], compute: Callable[[StageCall], Array], name: str, words: str,
    applies: Callable[[Model, Node], bool] = lambda model, node: True,
) -> PlantedCause:  # fmt: skip
    return PlantedCause(PortingBug(compute, at, applies=applies), frozenset(name.split(" | ")), words)


def _changed(call: StageCall, change: Callable[[Array], None]) -> Array:
    """The honest result, of which something is changed in place."""
    found = call.honest().copy()
    change(found)
    return found


def _columns(first: int, end: int, factor: float) -> Callable[[Array], None]:
    def change(found: Array) -> None:
        found[:, first:end] *= np.float32(factor)

    return change


def _rope_tables(call: StageCall) -> Array:
    angles = positions.angles(call).astype(np.float32)
    return positions.multiplied(call, round_bf16(np.cos(angles)) + 1j * round_bf16(np.sin(angles)))


def _offset_layer_norm(call: StageCall) -> Array:
    x = rows.normed_rows(call)
    centred = rows.normalised(x - x.mean(-1, keepdims=True), call.model.config.norm_epsilon)
    (weight,) = call.model.params(call.node)
    return rows.narrow(call, centred * (1 + weight.dequantize().reshape(-1).astype(np.float64)))


def _zero_tail(found: Array) -> Array:
    found = found.copy()
    found[:, -16:] = 0
    return found


def _without_block(call: StageCall) -> Array:
    x = call.x.copy()
    x[:, 64:96] = 0
    return call.honest(x)


def _heads_reversed(call: StageCall) -> Array:
    return call.honest(np.ascontiguousarray(call.heads(call.x)[:, ::-1]).reshape(call.x.shape))


def _of_layer_before(call: StageCall) -> Array:
    found = call.honest().copy()
    found[:, 32:64] = call.seen[Node(call.layer - 1, call.node.stage)][-len(found) :, 32:64]
    return found


def _tokens_exchanged(call: StageCall) -> Array:
    found = call.honest().copy()
    found[[1, 4]] = found[[4, 1]]
    return found


def _overflowing(call: StageCall) -> Array:
    found = call.honest()
    return np.where(np.abs(found) > 0.8 * np.abs(found).max(), np.float32(np.nan), found)


def _summed_in(kind: str, terms: int) -> Callable[[StageCall], Array]:
    return partial(product_types.summed_narrowly, kind=kind, terms=terms)


def _is_narrow(model: Model, node: Node) -> bool:
    """Whether a product is small enough to be computed term by term, and has as many inputs as the model is wide."""
    (weight, *_) = model.params(node)
    return node.layer is not None and weight.columns == model.config.graph.hidden


def _has_offset(model: Model, node: Node) -> bool:
    return all(weight.type.format.offset for weight in model.params(node))


def _has_six_bits(model: Model, node: Node) -> bool:
    return all(weight.type.format.scale_packing is ScalePacking.SIX_BITS for weight in model.params(node))


def _decoded(change: Callable[..., object]) -> Callable[[StageCall], Array]:
    return lambda call: call.with_params(*(change(weight) for weight in call.model.params(call.node))).honest()  # type: ignore[arg-type]


def _with(value: float, rows: slice, channels: slice) -> Callable[[StageCall], Array]:
    def change(found: Array) -> None:
        found[rows, channels] = value

    return lambda call: _changed(call, change)


def _block_zeroed(x: Array) -> Array:
    """An input whose first block of 32 is zero at two tokens."""
    found = x.copy()
    found[1:3, :32] = 0
    return found


def _divided_by_zero(call: StageCall) -> Array:
    """A token whose input has a block of zeros is NaN: the block's scale is 0, and is divided by."""
    return _with(np.nan, slice(1, 3), slice(None))(call)


def _has_blocks(model: Model, node: Node) -> bool:
    return all(weight.columns % 32 == 0 for weight in model.params(node))


def _yarn(call: StageCall, **changes: object) -> Array:
    """As turned with another number of the model's YaRN."""
    own = call.model.config.rope_of(call.node.layer).yarn
    assert own is not None
    return positions.turned(call, yarn=replace(own, **changes))  # type: ignore[arg-type]


def _has_yarn(model: Model, node: Node) -> bool:
    return model.config.rope_of(node.layer).yarn is not None


def _has_plain_rope(model: Model, node: Node) -> bool:
    rope = model.config.rope_of(node.layer)
    return rope.yarn is None and rope.factors is None and rope.scale == 1


def _is_behind_first(model: Model, node: Node) -> bool:
    return bool(node.layer)


_FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_silu")

PLANTED_CAUSES: Mapping[str, PlantedCause] = MappingProxyType(
    {
        **{name: PlantedCause(PORTING_BUGS[name], frozenset(names)) for name, names in NAMES_OF_BUGS.items()},
        "theta 123456": _with_parameter(
            (Op.ROPE,), lambda c: positions.turned(c, theta=123456.0), "RoPE base", "theta 123456,"
        ),
        "positions off by 3": _with_parameter((Op.ROPE,), lambda c: c.honest(shift=3), "RoPE positions", "off by +3"),
        "positions divided by 4": _with_parameter(
            (Op.ROPE,), lambda c: positions.turned(c, scale=4.0), "RoPE scale", "divided by 4,"
        ),
        "epsilon 3e-4": _with_parameter(
            (Op.RMS_NORM,), lambda c: c.with_config(norm_epsilon=3e-4), "norm epsilon", "epsilon 0.0003,"
        ),
        "a factor of 1.25": _with_parameter(
            tuple(op for op in Op if op not in (Op.SCORES, Op.CHOOSE_EXPERTS)),
            lambda c: c.honest() * np.float32(1.25), "factor", "multiplied by 1.25",
        ),
        "scores scaled by 0.1": _with_parameter(
            (Op.SCORES,), lambda c: c.honest() * np.float32(0.1 / c.model.config.score_scale), "factor",
            "scaled by 0.1,",
        ),
        "64 inputs left out": _with_parameter(
            (Op.MATMUL,), lambda c: c.honest(np.pad(c.x[:, :-64], ((0, 0), (0, 64)))), "inputs left out",
            "last 64 inputs",
        ),
        "theta 500000 and positions off by 2": _with_parameter(
            (Op.ROPE,), lambda c: c.configured(**positions.of_other_rope(c, theta=5e5)).honest(shift=2),
            "RoPE base and RoPE positions", "theta 500000, the model says 10000; and positions are off by +2",
        ),
        "24 channels of a head turned": _with_parameter(
            (Op.ROPE,), lambda c: c.with_config(graph=replace(c.model.config.graph, rope_dim=24)), "RoPE width",
            "24 of 64 channels",
        ),
        "tables of RoPE in bfloat16": _with_parameter(
            (Op.ROPE,), _rope_tables, "RoPE tables in bfloat16", "kept in bfloat16"
        ),
        "magnitude 1.3": _with_parameter(
            (Op.ROPE,), lambda c: positions.turned(c, magnitude=1.3), "RoPE magnitude | factor", "1.3"
        ),
        "YaRN of factor 4": _with_parameter(
            (Op.ROPE,), lambda c: positions.turned(c, scale=4.0, yarn=Yarn(4096)), "YaRN added",
            "factor 4 and original context 4096 is applied, the model has none", _has_plain_rope,
        ),
        "YaRN of factor 8, and its magnitude": _with_parameter(
            (Op.ROPE,),
            lambda c: positions.turned(c, scale=8.0, yarn=Yarn(2048), magnitude=1 + 0.1 * float(np.log(8))),
            "YaRN added", "factor 8 and original context 2048 is applied, the model has none, magnitude and all",
            _has_plain_rope,
        ),
        "YaRN: original context of 16": _with_parameter(
            (Op.ROPE,), lambda c: _yarn(c, original_context=16), "YaRN ramp", "original context is 16,", _has_yarn
        ),
        "YaRN: beta_fast of 8": _with_parameter(
            (Op.ROPE,), lambda c: _yarn(c, fast=8.0), "YaRN ramp", "beta_fast is 8,", _has_yarn
        ),
        "YaRN: beta_slow of 0.5": _with_parameter(
            (Op.ROPE,), lambda c: _yarn(c, slow=0.5), "YaRN ramp", "beta_slow is 0.5,", _has_yarn
        ),
        "YaRN left out": _with_parameter(
            (Op.ROPE,), lambda c: positions.turned(c, yarn=None, scale=1.0, magnitude=1.0), "RoPE scaling left out",
            "YaRN is left out", _has_yarn,
        ),
        "YaRN without its ramp": _with_parameter(
            (Op.ROPE,), lambda c: positions.turned(c, yarn=None), "RoPE scaling left out", "without YaRN's ramp",
            _has_yarn,
        ),
        "YaRN: magnitude 1.25": _with_parameter(
            (Op.ROPE,), lambda c: positions.turned(c, magnitude=1.25), "RoPE magnitude", "a magnitude of 1.25,",
            _has_yarn,
        ),
        "blocks of zeros divided by": PlantedCause(
            PortingBug(_divided_by_zero, (Op.MATMUL,), applies=_has_blocks), frozenset({"zero scale"}),
            "blocks of 32 inputs that are zero make NaN", _block_zeroed,
        ),
        "Inf at a single value": _with_parameter(
            (Op.MATMUL, Op.RMS_NORM, Op.ADD), _with(np.inf, slice(3, 4), slice(5, 6)), "single values | overflow",
            "Inf",
        ),
        "NaN at a single value": _with_parameter(
            (Op.MATMUL, Op.RMS_NORM, Op.ADD), _with(np.nan, slice(3, 4), slice(5, 6)), "single values | overflow",
            "NaN",
        ),
        "NaN in a channel": _with_parameter(
            (Op.MATMUL,), _with(np.nan, slice(None), slice(5, 6)), "lost lines", "channel 5 is NaN at every token",
            lambda model, node: node.layer is not None,
        ),
        "NaN in a token": _with_parameter(
            (Op.RMS_NORM, Op.ADD), _with(np.nan, slice(3, 4), slice(None)), "lost lines", "token 3 is NaN throughout"
        ),
        "norm: squares in bf16": _with_parameter(
            (Op.RMS_NORM,), rows.squares_in_bf16, "norm squares in bfloat16", "in bfloat16"
        ),
        "norm: weight left out and epsilon 3e-3": _with_parameter(
            (Op.RMS_NORM,), lambda c: rows.narrow(c, rows.normalised(rows.normed_rows(c), 3e-3)),
            "norm weight left out and norm epsilon", "the weight is left out; and computed with epsilon 0.003,",
        ),
        "norm: 1 + weight and mean taken off": _with_parameter(
            (Op.RMS_NORM,), _offset_layer_norm, "norm 1 + weight and norm mean subtracted", "multiplied by 1 + weight",
        ),
        "heads joined in reverse": _with_parameter(
            ("attn_out",), _heads_reversed, "input heads", "in the order [3, 2, 1, 0]"
        ),
        "input shifted by a channel": _with_parameter(
            (Op.MATMUL,), lambda c: c.honest(np.roll(c.x, 1, 1)), "inputs in another order", "by 1 channel",
        ),
        "input with its halves exchanged": _with_parameter(
            ("ffn_out", "ffn_gate"), lambda c: c.honest(np.roll(c.x, c.x.shape[1] // 2, 1)), "inputs in another order",
            "halves exchanged",
        ),
        "a block of inputs left out": _with_parameter(
            (Op.MATMUL,), _without_block, "blocks of inputs", "inputs 64–95"
        ),
        "scale of the block before": _with_parameter(
            (Op.MATMUL,), _decoded(decoding.of_block_before), "decoding", "the scale of the one before"
        ),
        "sub-block scales of the block before": _with_parameter(
            ("ffn_out",), _decoded(partial(decoding.of_block_before, part=BlockPart.SUB_BLOCK_SCALES)), "decoding",
            "the sub-block scales of the one before",
        ),
        "upper bits of scales left out": _with_parameter(
            (Op.MATMUL,), _decoded(decoding.without_upper_bits), "decoding", "upper bits", _has_six_bits
        ),
        "offset of quants left out": _with_parameter(
            (Op.MATMUL,), _decoded(decoding.without_offset), "decoding", "from the middle of their range", _has_offset
        ),
        "sums in f16, 32 terms": _with_parameter(
            (Op.MATMUL,), _summed_in("f16", 32), "sums in 16 bits", "float16 after every 32 terms", _is_narrow
        ),
        "sums in bf16, term by term": _with_parameter(
            (Op.MATMUL,), _summed_in("bf16", 1), "sums in 16 bits", "bfloat16 after each term", _is_narrow
        ),
        "scores capped at 3": _with_parameter(
            (Op.SCORES,), lambda c: np.float32(3) * np.tanh(c.honest() / np.float32(3)), "softcap added",
            "a softcap of 3,",
        ),
        "logits capped at 10": _with_parameter(
            ("lm_head",), lambda c: np.float32(10) * np.tanh(c.honest() / np.float32(10)), "softcap added",
            "a softcap of 10,",
        ),
        "logits of two tokens before": _with_parameter(
            ("lm_head",), lambda c: c.honest(np.ascontiguousarray(c.before("final_norm")[-3:-2])), "token before",
            "reads final_norm of token",
        ),
        "sum of the softmax without the own key": _with_parameter(
            (Op.SOFTMAX,),
            lambda c: attention.summed_over(c, lambda query, key: (key < query) | (query == 0)), "sum of the softmax",
            "its own key",
        ),
        "1 in the sum of the softmax": _with_parameter(
            (Op.SOFTMAX,), attention.one_added_to_sum, "1 in the sum", "a sink of 0"
        ),
        "mask: own key unseen, NaN": _with_parameter(
            (Op.SOFTMAX, Op.ATTEND), partial(attention.own_key_unseen_by_all, first=np.nan), "mask without the own key",
            "is NaN",
        ),
        "mask: tiles of 4": _with_parameter(
            (Op.SOFTMAX, Op.ATTEND), partial(attention.last_tile_left_out, tile=4), "last keys left out", "tile of 4"
        ),
        "scores of the next K/V head, scaled by 0.2": _with_parameter(
            (Op.SCORES,),
            lambda c: attention.neighbouring_head(c) * np.float32(0.2 / c.model.config.score_scale),
            "neighbouring K/V head and factor", "scaled by 0.2,",
        ),
        "no mask on values of the next K/V head": _with_parameter(
            (Op.ATTEND,), lambda c: attention.no_mask(replace(c, inputs=(c.x, attention.of_next_head(c)))),
            "neighbouring K/V head and mask left out", "no mask",
        ),
        "x · sigmoid(1.5 x)": _with_parameter(
            (Op.SILU,), lambda c: c.x / (1 + np.exp(np.float32(-1.5) * c.x)), "activation factor", "sigmoid(1.5 x)"
        ),
        "activation clamped at 0.5": _with_parameter(
            (Op.SILU,), lambda c: c.honest(np.clip(c.x, -0.5, 0.5).astype(np.float32)), "activation clamped",
            "clamped at 0.5",
        ),
        "a fast exponential": _with_parameter(
            (Op.SILU,), partial(activations.with_fast_exponential, offset=366393), "fast exponential", "Schraudolph"
        ),
        "activation of the product": _with_parameter(
            (Op.MULTIPLY,), activations.of_the_product, "activation of the product", "of gate · up"
        ),
        "GELU of up": _with_parameter(
            (Op.SILU,), lambda c: rows.gelu_for_silu(replace(c, inputs=(c.before("ffn_up"),))),
            "wiring and activation | activation and wiring", "GELU by tanh",
        ),
        "residual of the norm, halved": _with_parameter(
            ("post_ffn_residual",), lambda c: np.float32(0.5) * c.honest(c.before("ffn_norm"), c.inputs[1]),
            "wiring and factor", "multiplied by 0.5",
        ),
        "block's output halved before it is added": _with_parameter(
            (Op.ADD,), lambda c: c.inputs[0] + np.float32(0.5) * c.inputs[1], "residual factor", "by 0.5 before"
        ),
        "block's output subtracted": _with_parameter(
            (Op.ADD,), lambda c: c.inputs[0] - c.inputs[1], "residual factor", "is subtracted"
        ),
        "norm added on top": _with_parameter(
            ("attn_out", "ffn_out"), lambda c: c.honest() + c.before("ffn_norm"), "stage added", "ffn_norm is added"
        ),
        "wiring and a tail left out": _with_parameter(
            ("ffn_gate",), lambda c: products.tail_left_out(replace(c, inputs=(c.before("attn_norm"),))),
            "wiring and inputs left out", "the last 32 inputs",
        ),
        "weights of the next layer, channels zero": _with_parameter(
            ("ffn_gate",), lambda c: _zero_tail(c.honest(node=c.neighbour(1))), "weights and zeros",
            "are zero",
        ),
        "bias left out for keys, times 2": _with_parameter(
            (Op.BIAS,), lambda c: rows.bias_of_keys_left_out(c) * np.float32(2), "bias and factor", "by 2",
        ),
        "values saturate at 0.25": _with_parameter(
            _FEED_FORWARD, lambda c: np.clip(c.honest(), -0.25, 0.25), "overflow", "saturate at 0.25"
        ),
        "NaN by overflow": _with_parameter(_FEED_FORWARD, _overflowing, "overflow", "are NaN"),
        "sign of a part": _with_parameter(
            tuple(MATRIX_PRODUCTS), lambda c: _changed(c, _columns(64, 128, -1)), "factor of a part",
            "channels 64–127 are of the other sign",
        ),
        "a part times 3": _with_parameter(
            (Op.RMS_NORM, *_FEED_FORWARD), lambda c: _changed(c, _columns(32, 48, 3)), "factor of a part",
            "channels 32–47 are multiplied by 3",
        ),
        "a part of the layer before": _with_parameter(
            (Op.RMS_NORM, Op.ADD, *_FEED_FORWARD), _of_layer_before, "stale part", "of the layer before holds there",
            _is_behind_first,
        ),
        "two tokens exchanged": _with_parameter(
            (Op.RMS_NORM, Op.ADD, *_FEED_FORWARD), _tokens_exchanged, "tokens in another order",
            "token 1 has the values of token 4",
        ),
        "a bias that nothing has": _with_parameter(
            ("ffn_up",), lambda c: c.honest() + np.linspace(-1, 1, c.honest().shape[1], dtype=np.float32),
            "vector of channels", "one vector is added",
        ),
    }
)  # fmt: skip
