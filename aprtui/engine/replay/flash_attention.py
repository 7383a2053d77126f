"""Attention as llama.cpp's flash attention on a CPU rounds it, for heads of any size.

With float16 K/V and fewer queries than a tile (64), the values' sums are kept in float16, one key after another
(`ggml_compute_forward_flash_attn_ext_f16_one_chunk`). Quantised K/V meet queries in Q8_0; where 64 divides the head
size, newer versions turn queries, keys and values by a Walsh-Hadamard matrix before, which spreads outlier channels
(`llama_kv_cache::build_input_k_rot`; off with LLAMA_ATTN_ROT_DISABLE), and turn the sums of values back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.hadamard import TURNED_CHANNELS, hadamard
from aprtui.engine.rounding import ROUND, round_f16, round_q8_0
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import Op

Array = NDArray[np.float32]

ONLINE_F16 = "f16_online"
"""As a type of the softmax: sums of values in float16 over unnormalised probabilities, queries in float16."""

ROTATED: Mapping[str, str] = MappingProxyType({"q8_0_rotated": "q8_0", "q4_0_rotated": "q4_0"})
"""Types of the K/V cache that meet queries in Q8_0, all of them turned, by the type that they are kept in."""


MET_IN_Q8_0: Mapping[str, str] = MappingProxyType({"q8_0_query": "q8_0", "q4_0_query": "q4_0"})
"""The same where nothing is turned."""


def turned_channels(head_dim: int) -> int:
    """How many channels of queries and keys are turned together: 64 times the largest power of two that divides."""
    size = TURNED_CHANNELS
    while head_dim % (2 * size) == 0:
        size *= 2
    return size


def rotated_inputs(op: Op, inputs: Sequence[Array], kept: str, config: GraphConfig) -> list[Array]:
    """The inputs of the scores or the attention, keys and values as `kept`; the matrix drops out of their products."""
    dim = config.value_dim if op is Op.ATTEND else config.head_dim
    # llama.cpp turns nothing where values are a part of the keys.
    if dim % TURNED_CHANNELS or (config.latent is not None and config.latent.absorbed):
        return met_inputs(op, inputs, kept)
    if op is Op.ATTEND:
        turned = ROUND[kept](hadamard(inputs[1], TURNED_CHANNELS))
        return [inputs[0], hadamard(turned, TURNED_CHANNELS)]
    size = turned_channels(dim)
    return [round_q8_0(hadamard(inputs[0], size)), ROUND[kept](hadamard(inputs[1], size))]


def met_inputs(op: Op, inputs: Sequence[Array], kept: str) -> list[Array]:
    """The inputs of the scores or the attention, not turned: keys and values as `kept`, queries in Q8_0."""
    query = inputs[0] if op is Op.ATTEND else round_q8_0(inputs[0])
    return [query, ROUND[kept](inputs[1])]


def attend_online_f16(maps: Array, v: Array, config: GraphConfig) -> Array:
    """Values `[T, kv_heads · value_dim]` weighted by the softmax `[heads, n, T]`, summed key after key in float16.

    A probability over the largest so far is what the kernel multiplies by; the last largest one is one over its sum.
    """
    heads, queries, keys = maps.shape
    values = round_f16(v).reshape(keys, config.kv_heads, config.value_dim).repeat(heads // config.kv_heads, 1)
    sums = np.zeros((heads, queries, config.value_dim), np.float32)
    largest = np.zeros((heads, queries, 1), np.float32)
    for key in range(keys):
        probability = maps[:, :, key, None]
        higher = np.maximum(largest, probability)
        with np.errstate(divide="ignore", invalid="ignore"):
            weight, kept = (np.where(higher == 0, np.float32(0), part / higher) for part in (probability, largest))
        risen = round_f16(sums * kept)
        sums = np.where(probability == 0, risen, round_f16(risen + values[key][:, None] * weight))
        largest = higher
    return np.ascontiguousarray((sums * largest).swapaxes(0, 1).reshape(queries, -1))
