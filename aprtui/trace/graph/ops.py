"""What the stages of a graph are made by, and what their rows and columns are."""

from __future__ import annotations

from enum import StrEnum


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


CHOICES = frozenset({Op.CHOOSE_EXPERTS, Op.TAKE_CHOSEN, Op.NORMALISE_CHOSEN, Op.SCALE_CHOSEN, Op.SOFTMAX_CHOSEN})
"""Ops that give a number for each chosen expert of a token, most probable first."""

HEAD_ROWS = frozenset({Op.ROPE, Op.POSITION_SCALE, Op.HEAD_RMS_NORM, Op.HEAD_JOIN, Op.ATTEND})
"""Ops whose rows are heads, one after the other."""

KEEP_ORDER = frozenset({Op.ROPE, Op.POSITION_SCALE, Op.HEAD_RMS_NORM, Op.BIAS, Op.MATMUL})
"""Ops between a matrix product and RoPE, that product included: their channels lie in its order."""

MATRIX_PRODUCTS = frozenset({Op.MATMUL, Op.EXPERT_MATMUL, Op.HEAD_MATMUL})
"""Ops that multiply a matrix of weights, whose input engines round by the type of the weights."""

RECURRENT_OPS = frozenset({Op.CONVOLUTION, Op.DELTA_STATE, Op.DELTA_OUTPUT})
"""Ops that go through the tokens one after the other, from a state that earlier ones left."""

PLACE_OPS = (
    frozenset({Op.EMBED, Op.ROPE, Op.POSITION_SCALE, Op.SCORES, Op.SOFTCAP, Op.SOFTMAX, Op.ATTEND}) | RECURRENT_OPS
)
"""Ops that see where a token stands, or other tokens than it."""

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
