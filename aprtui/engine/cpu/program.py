"""What the threads of the CPU engine execute: a table of instructions, and the state of one run of it.

A program is made once from the stage graph (`lowering`) and interpreted by every thread (`interpreter`). Instructions
hold raw addresses; sizes that change from call to call (tokens, position) stand in the `CONTROL` record.

Instructions that work on single tokens (norms, RoPE, adding, quantising, …) follow a `ROWS` instruction, whose `count`
says how many: a thread takes some tokens through all of them in one go.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np


class Opcode(IntEnum):
    ROWS = 0
    EMBED = 1
    RMS_NORM = 2
    BIAS = 3
    ROPE = 4
    ADD = 5
    SILU = 6
    MULTIPLY = 7
    STORE_KEYS = 8
    STORE_VALUES = 9
    QUANTIZE = 10
    MATMUL = 11
    ATTENTION = 12
    STATISTICS = 13
    GELU = 14
    SOFTCAP = 15
    ROUTER_SOFTMAX = 16
    CHOOSE_EXPERTS = 17
    TAKE_CHOSEN = 18
    NORMALISE_CHOSEN = 19
    GROUP_EXPERTS = 20
    GATHER_ROWS = 21
    EXPERT_MATMUL = 22
    COMBINE_EXPERTS = 23
    EXPERT_BIAS = 24
    SWIGLU_OAI = 25
    POSITION_SCALE = 26
    SIGMOID = 27
    SCALE_ROWS = 28
    CONVOLUTION = 29
    KEEP_ROWS = 30
    HEAD_L2_NORM = 31
    SOFTPLUS = 32
    DECAY = 33
    DELTA_RULE = 34
    TAKE_HEADS = 35
    SCALE_CHOSEN = 36


class AttentionPart(IntFlag):
    """Which stages an ATTENTION instruction computes; it takes what lies before them from the materialised maps."""

    SCORES = 1
    SOFTMAX = 2
    SUMS = 4
    MAPS = 8  # materialise the stages that it computes
    SOFTCAP = 16


class DeltaPart(IntFlag):
    """Which stages a DELTA_RULE instruction computes. Without OUTPUT the state that goes on to the next token stays."""

    STATE = 1
    OUTPUT = 2


# Where the inputs of a DELTA_RULE instruction lie, with strides in float32 values, and its states: the one that earlier
# tokens left, and the stage.
DELTA_INPUTS = np.dtype(
    [
        *((name, np.int64) for name in ("queries", "keys", "values", "decays", "rates")),
        *((f"{name}_stride", np.int64) for name in ("queries", "keys", "values", "decays", "rates")),
        ("carried", np.int64),
        ("state", np.int64),
    ],
    align=True,
)

# Strides count float32 values. An instruction uses the fields that its opcode needs (see the kernels) and leaves 0 in
# the others.
INSTRUCTION = np.dtype(
    [
        ("opcode", np.int64),
        ("function", np.int64),  # address of the kernel, see `operations`
        ("barrier", np.int64),  # 1: start when all instructions before are done
        # ROWS: instructions that follow; STATISTICS: descriptors; ATTENTION: `AttentionPart`s; EXPERT_…: experts;
        # DELTA_RULE: value heads
        ("count", np.int64),
        ("wanted", np.int64),  # 1: only the tokens from the one on whose logits are wanted
        ("source", np.int64),
        ("source_stride", np.int64),
        # second operand; EMBED, …MATMUL: weights; ATTENTION, STORE_…: K/V cache; CONVOLUTION, KEEP_ROWS: earlier rows
        ("other", np.int64),
        ("other_stride", np.int64),  # EMBED, …MATMUL: bytes of a weight row; ATTENTION, STORE_…: positions a head
        ("target", np.int64),
        ("target_stride", np.int64),
        # channels of a token, or of one head where `heads` is used; …MATMUL: columns; ROPE: those of a head that turn
        ("width", np.int64),
        # …MATMUL: weight rows, of one expert; other ops of experts: how many a token uses; CONVOLUTION, KEEP_ROWS:
        # weights of a channel; DELTA_RULE: value heads side by side that share a key head
        ("heads", np.int64),
        ("source_head_stride", np.int64),  # ops on heads: from one head of the source to the next
        ("target_head_stride", np.int64),
        ("kv_heads", np.int64),  # EXPERT_MATMUL: experts that a token uses; DELTA_RULE: heads of keys and queries
        # address of norm weights, bias, RoPE or GELU table, factors of positions, value cache, descriptors, groups
        ("parameter", np.int64),
        # activation kind, RoPE layout, type of the K/V cache, whether GELU is looked up, `DeltaPart`s
        ("kind", np.int64),
        ("value_width", np.int64),  # ATTENTION: channels of a head of values
        ("window", np.int64),  # ATTENTION: positions that a query sees, its own included
        ("sinks", np.int64),  # ATTENTION: address of a logit for each head, or 0
        # norm epsilon, scale of the scores, of the embedding or of experts' weights, softcap of the logits
        ("scalar", np.float64),
        ("softcap", np.float64),  # ATTENTION: of the scores, 0 for none
    ],
    align=True,
)

# One tapped stage whose statistics are wanted; maps are [heads, tokens, keys], other stages [tokens, width].
DESCRIPTOR = np.dtype(
    [
        ("source", np.int64),  # address, or 0: take it from CONTROL by `where`
        ("where", np.int64),
        ("width", np.int64),  # channels, or heads of a map
        ("node", np.int64),  # row of the statistics table
    ],
    align=True,
)


class Where(IntEnum):
    """How a descriptor's values lie in memory."""

    STAGE = 0
    SCORES = 1
    SOFTMAX = 2
    LOGITS = 3
    SOFTCAP = 4
    CAPPED_LOGITS = 5
    STATE = 6


CONTROL = np.dtype(
    [
        ("address", np.int64),  # of this record
        ("program", np.int64),
        ("begin", np.int64),
        ("end", np.int64),
        ("ids", np.int64),  # one int64 a token
        ("tokens", np.int64),  # tokens of this chunk
        ("position", np.int64),  # of the first of them
        ("wanted", np.int64),  # first token of the chunk whose logits are wanted (= tokens: none)
        ("threads", np.int64),
        ("scores", np.int64),  # attention maps [heads, tokens, position + tokens], or 0: not materialised
        ("softcap", np.int64),
        ("softmax", np.int64),
        ("logits", np.int64),  # what the head's product is
        ("capped_logits", np.int64),  # and what its softcap makes of it
        ("statistics", np.int64),
        ("counters", np.int64),  # two int64 an instruction: next piece to be taken, pieces done since the last barrier
        ("durations", np.int64),  # nanoseconds of each instruction, added to by every run
        ("waits", np.int64),  # 64 bytes a thread: arrivals that the end of its run waits for, a message, a clock
        ("scratch", np.int64),
        ("scratch_bytes", np.int64),  # for each thread
        ("attention_scratch", np.int64),  # bytes into a thread's scratch where attention's part begins
        ("message", np.int64),  # what wakes a worker: the number 1
        ("quit", np.int64),  # 1: workers end when they are woken
        ("padding", np.int64, 8),
        ("arrived", np.int64),  # arrivals at ends of runs since the beginning, alone in its cache line
        ("more_padding", np.int64, 7),
    ],
    align=True,
)


def control_offset(field: str) -> int:
    """Bytes from the beginning of a control record to one of its fields."""
    assert CONTROL.fields is not None
    return int(CONTROL.fields[field][1])
