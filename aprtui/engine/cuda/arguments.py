"""What kernels take, laid out as C does: the structs of `kernels/*.cuh`, and one struct for each list of arguments.

Pointers are addresses on the device; 0 is what the kernels call null: something that is not there, or not wanted.
"""

from __future__ import annotations

import ctypes

_Pointer, _Int, _Float, _Double = ctypes.c_void_p, ctypes.c_int, ctypes.c_float, ctypes.c_double


class Matrix(ctypes.Structure):
    """A weight matrix; see types.cuh."""

    _fields_ = (("data", _Pointer), ("format", _Int), ("rows", _Int), ("columns", _Int))


class Activations(ctypes.Structure):
    """Input of a matrix product in float32, in Q8_1, or both; see types.cuh."""

    _fields_ = (("values", _Pointer), ("levels", _Pointer), ("scales", _Pointer))


class Q8Output(ctypes.Structure):
    """Where Q8_1 activations are written; see types.cuh."""

    _fields_ = (("levels", _Pointer), ("scales", _Pointer))


class Heads(ctypes.Structure):
    """What lies between the Q, K and V products and attention; see heads.cuh."""

    _fields_ = (
        *((name, _Pointer) for name in ("q_bias", "k_bias", "v_bias", "q_norm", "k_norm", "turns", "factors")),
        *((name, _Pointer) for name in ("key_cache", "value_cache", "product", "biased")),
        *((name, _Pointer) for name in ("q_normed", "k_normed", "q_turned", "k_turned", "q_scaled")),
        ("epsilon", _Float),
        *((name, _Int) for name in ("heads", "kv_heads", "head_dim", "context")),
        *((name, _Int) for name in ("rotated", "interleaved", "half_cache")),
    )


class FeedForward(ctypes.Structure):
    """Outputs of the feed-forward block's first half; see activation.cuh."""

    _fields_ = (
        *((name, _Pointer) for name in ("gate", "up", "active", "out")), ("q8", Q8Output), ("activation", _Int),
    )  # fmt: skip


class Attention(ctypes.Structure):
    """What attention reads and writes; see attention.cuh."""

    _fields_ = (
        *((name, _Pointer) for name in ("q", "key_cache", "value_cache", "scores", "capped", "softmax", "out")),
        ("q8", Q8Output), ("sinks", _Pointer),
        *((name, _Int) for name in ("heads", "kv_heads", "head_dim", "context", "map_stride", "half_cache", "window")),
        ("scale", _Float), ("softcap", _Float),
    )  # fmt: skip


class Embed(ctypes.Structure):
    """See embedding.cu."""

    _fields_ = (("table", Matrix), ("tokens", _Pointer), ("out", _Pointer), ("scale", _Float))


class RmsNorm(ctypes.Structure):
    """See norm.cu."""

    _fields_ = (
        ("x", _Pointer), ("weight", _Pointer), ("out", _Pointer), ("q8", Q8Output), ("columns", _Int),
        ("epsilon", _Float),
    )  # fmt: skip


class Norm(ctypes.Structure):
    """A norm in the launch that makes its input; see norm.cuh."""

    _fields_ = (("weight", _Pointer), ("out", _Pointer), ("q8", Q8Output), ("counter", _Pointer), ("epsilon", _Float))


class Given(ctypes.Structure):
    """What a block gives to the residual stream; see residual.cu."""

    _fields_ = (
        *((name, _Pointer) for name in ("x", "shares", "combined", "bias", "biased", "weight", "normed")),
        *((name, _Pointer) for name in ("residual", "sum")),
        ("columns", _Int), ("experts", _Int), ("epsilon", _Float),
    )  # fmt: skip


class AddToResidual(ctypes.Structure):
    """See residual.cu."""

    _fields_ = (("given", Given), ("next", Norm))


class Softcap(ctypes.Structure):
    """See softcap.cu."""

    _fields_ = (("x", _Pointer), ("out", _Pointer), ("count", _Int), ("cap", _Float))


class Quantize(ctypes.Structure):
    """See quantize.cu."""

    _fields_ = (("x", _Pointer), ("out", Q8Output), ("blocks", _Int))


class Product(ctypes.Structure):
    """Of the kernels of matvec.cu."""

    _fields_ = (
        ("w", Matrix), ("x", Activations), ("residual", _Pointer), ("product", _Pointer), ("sum", _Pointer),
        ("tokens", _Int), ("stride", _Int),
    )  # fmt: skip


class MatrixOfPrompt(ctypes.Structure):
    """`Product` of prefill.cu: a matrix, and where its product goes; without rows there is none."""

    _fields_ = (("w", Matrix), ("out", _Pointer), ("bias", _Pointer), ("biased", _Pointer))


class Sorted(ctypes.Structure):
    """Slots of a prompt in the order of their experts; see types.cuh."""

    _fields_ = (("slots", _Pointer), ("tiles", _Pointer), ("rows", _Int), ("of_token", _Int))


class SplitColumns(ctypes.Structure):
    """`Split` of prefill.cu: how the columns of products of a prompt are split among blocks."""

    _fields_ = (("sums", _Pointer), ("counters", _Pointer), ("turns", _Int))


class ProductsOfPrompt(ctypes.Structure):
    """See prefill.cu. `residual` and `sum` belong to the first matrix."""

    _fields_ = (
        ("first", MatrixOfPrompt), ("second", MatrixOfPrompt), ("third", MatrixOfPrompt), ("x", Activations),
        ("residual", _Pointer), ("sum", _Pointer), ("tokens", _Int), ("stride", _Int), ("sorted", Sorted),
        ("split", SplitColumns),
    )  # fmt: skip


class ProductOfOne(ctypes.Structure):
    """Of the kernels of matvec.cu that take one token."""

    _fields_ = (*Product._fields_, ("norm", Norm))


class Qkv(ctypes.Structure):
    """Of the kernels of qkv.cu."""

    _fields_ = (
        ("q", Matrix), ("k", Matrix), ("v", Matrix), ("x", Activations), ("heads", Heads), ("step", _Pointer),
        ("counters", _Pointer),
    )  # fmt: skip


class HeadsOfPrompt(ctypes.Structure):
    """See heads.cu."""

    _fields_ = (("heads", Heads), ("step", _Pointer))


class GateUp(ctypes.Structure):
    """Of the kernels of gate_up.cu."""

    _fields_ = (("gate", Matrix), ("up", Matrix), ("x", Activations), ("out", FeedForward))


class Activate(ctypes.Structure):
    """See activate.cu."""

    _fields_ = (("gate", _Pointer), ("up", _Pointer), ("out", FeedForward), ("blocks", _Int))


class Routing(ctypes.Structure):
    """How a token's experts are chosen, and their weights; see experts.cu."""

    _fields_ = (
        *((name, _Pointer) for name in ("logits", "bias", "router", "choice_bias", "biased", "indices")),
        *((name, _Pointer) for name in ("taken", "normalised", "scaled")),
        *((name, _Int) for name in ("experts", "used", "kind", "normalisation")), ("scale", _Float),
        *((name, _Int) for name in ("groups", "groups_used", "two_largest")),
    )  # fmt: skip


class Chosen(ctypes.Structure):
    """The experts of each token, and what their gate and up have; see experts.cu."""

    _fields_ = (
        *((name, _Pointer) for name in ("indices", "gate_bias", "up_bias", "gate_product", "up_product")),
        ("rows", _Int), ("used", _Int),
    )  # fmt: skip


class ExpertOutput(ctypes.Structure):
    """See experts.cu."""

    _fields_ = (("product", _Pointer), ("bias", _Pointer), ("biased", _Pointer))


class Route(ctypes.Structure):
    """Of `route` in experts.cu."""

    _fields_ = (("router", Routing),)


class SortSlots(ctypes.Structure):
    """Of `sort_slots` in experts.cu."""

    _fields_ = (("indices", _Pointer), ("sorted", Sorted), ("slots", _Int), ("experts", _Int), ("tiles", _Int))


class ExpertGateUp(ctypes.Structure):
    """Of the kernels of experts.cu for gate and up."""

    _fields_ = (*GateUp._fields_, ("chosen", Chosen))


class ExpertDown(ctypes.Structure):
    """Of the kernels of experts.cu for down."""

    _fields_ = (("w", Matrix), ("x", Activations), ("chosen", Chosen), ("out", ExpertOutput))


class AttendOne(ctypes.Structure):
    """See attend_one.cu."""

    _fields_ = (
        ("attention", Attention), ("step", _Pointer), ("partial", _Pointer), ("counters", _Pointer),
        ("states", _Pointer),
    )  # fmt: skip


class SoftmaxMaps(ctypes.Structure):
    """Of `softmax_maps` in attend_one.cu."""

    _fields_ = (
        ("maps", _Pointer), ("states", _Pointer), ("step", _Pointer), ("heads", _Int), ("map_stride", _Int),
        ("layer_stride", _Int), ("window", _Int), ("softcap", _Float),
    )  # fmt: skip


class AttentionAt(ctypes.Structure):
    """Of the kernels of attend_prompt.cu, and of `scores_before_window` in attend_one.cu."""

    _fields_ = (("attention", Attention), ("step", _Pointer))


class StageStatistics(ctypes.Structure):
    """See statistics.cu."""

    _fields_ = (("records", _Pointer), ("step", _Pointer), ("sums", _Pointer))


class Greedy(ctypes.Structure):
    """Of `greedy` in sample.cu."""

    _fields_ = (
        ("logits", _Pointer), ("vocabulary", _Int), ("step", _Pointer), ("token", _Pointer), ("ring", _Pointer),
        ("ring_size", _Int), ("parts", _Pointer), ("counter", _Pointer),
    )  # fmt: skip


class Draw(ctypes.Structure):
    """Of `draw` in sample.cu."""

    _fields_ = (
        ("logits", _Pointer), ("vocabulary", _Int), ("temperature", _Double), ("min_p", _Double),
        ("uniforms", _Pointer), ("likeliest", _Pointer), ("step", _Pointer), ("token", _Pointer), ("ring", _Pointer),
        ("ring_size", _Int), ("sums", _Pointer), ("counter", _Pointer),
    )  # fmt: skip


class TopCandidates(ctypes.Structure):
    """Of `top_candidates` in sample.cu."""

    _fields_ = (
        ("logits", _Pointer), ("vocabulary", _Int), ("count", _Int), ("step", _Pointer), ("ring", _Pointer),
        ("ring_size", _Int), ("keys", _Pointer), ("counter", _Pointer),
    )  # fmt: skip


def packed(arguments: ctypes.Structure) -> bytes:
    """The bytes of an argument list, without the padding that C puts behind a struct but not behind arguments."""
    name = arguments._fields_[-1][0]
    last = getattr(type(arguments), name)
    return bytes(arguments)[: last.offset + last.size]
