"""What a program's addresses point at: stage buffers, quantised matmul inputs, K/V cache, vectors and RoPE table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.experts import grouping_size
from aprtui.engine.cpu.kv_cache import kv_number, padded, rows_of, tile_bytes
from aprtui.engine.cpu.matmul import ActivationKind, activation_bytes, activation_kind
from aprtui.engine.cpu.vectors import LANES
from aprtui.engine.protocol import KvType, Mode
from aprtui.errors import EngineError
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import BIASES, Op
from aprtui.trace.graph.stage import Node, TokenMixer

Array = NDArray[np.float32]

MOST_TOKENS = 512
"""Tokens evaluated at a time at most: from here on larger chunks make a prompt no faster."""

_ROPE_BLOCK = 512

_STAGE_BYTES = 128 << 20
"""Stage buffers take no more than this; models with wide stages get smaller chunks."""


_VECTORS = BIASES | {Op.RMS_NORM, Op.HEAD_RMS_NORM, Op.SOFTMAX, Op.SOFTPLUS, Op.DECAY}
"""Ops whose parameters are kept in float32."""


class CpuStorage:
    """Memory of one engine. Each stage of one layer has its own buffer `[chunk, width]`, used layer after layer.

    So every stage can be tapped when its layer is done. The K/V cache has room for `cached_layers`: as many as the
    model has, or fewer, which its layers use in turn.
    """

    def __init__(
        self, model: Model, mode: Mode, kv: KvType, context: int, rope_angles: RopeAngles, cached_layers: int
    ) -> None:
        config = model.config.graph
        self.context = context
        # Attention maps and logits would be too large: they are allocated only as far as a call needs them.
        widths = model.graph.row_widths
        row_bytes = 4 * sum(widths.values())
        self.chunk = max(1, min(MOST_TOKENS, context, _STAGE_BYTES // row_bytes))
        self.stages = {name: np.empty((self.chunk, width), np.float32) for name, width in widths.items()}
        states = {stage.name: stage.width for stage in model.graph.stages if stage.holds_state}
        self.stages |= {name: np.zeros((1, width), np.float32) for name, width in states.items()}
        self.recurrent = RecurrentStorage(config, cached_layers)
        rounded = _widest_inputs(model, mode, Op.MATMUL)
        rounded.pop(ActivationKind.F32, None)  # read where the stage lies
        self._quantized = {kind: _aligned(self.chunk * size) for kind, size in rounded.items()}
        heads = config.heads if any(stage.op is Op.HEAD_MATMUL for stage in model.graph.stages) else 0
        self._every_head = np.arange(heads, dtype=np.float32)
        slots = self.chunk * max(config.experts_used, heads)
        chosen = _widest_inputs(model, mode, Op.EXPERT_MATMUL, Op.HEAD_MATMUL)
        self._gathered = {kind: _aligned(slots * size) for kind, size in chosen.items()}
        self._grouping = np.zeros(grouping_size(max(config.experts, heads), slots), np.int64)
        self._places = np.zeros(slots, np.int64)
        self._kv, self.plane = kv, padded(context)
        self._widths = {Op.SCORES: config.head_dim, Op.ATTEND: config.value_dim}
        sizes = [tile_bytes(kv_number(kv), width) for width in (config.head_dim, padded(config.value_dim))]
        self._attention = {layer: place for place, layer in enumerate(config.layers_with(TokenMixer.ATTENTION))}
        shape = (min(cached_layers, max(1, len(self._attention))), config.kv_heads, self.plane // LANES)
        # Zeroed memory is not resident before it is written: a long context costs nothing until it is used.
        try:
            self._keys, self._values = (np.zeros((*shape, size), np.uint8) for size in sizes)
        except MemoryError as error:
            total = np.prod(shape, dtype=np.float64) * sum(sizes) / 2**30
            raise EngineError(
                f"the K/V cache for {context} positions does not fit in memory ({total:.0f} GiB): lower --context"
            ) from error
        self._vectors = {
            node: np.concatenate([weight.dequantize().reshape(-1) for weight in model.params(node)])
            for node in model.graph.nodes
            if model.graph[node.stage].op in _VECTORS and model.params(node)
        }
        # The weights of each tap together, so that a loop over channels reads them one after the other.
        self._vectors |= {
            node: np.ascontiguousarray(model.params(node)[0].dequantize().T)
            for node in model.graph.nodes
            if model.graph[node.stage].op is Op.CONVOLUTION
        }
        self._rope_of, self._rope_angles = model.config.rope_of, rope_angles
        ropes = dict.fromkeys(model.config.rope_of(layer) for layer in range(config.layers))
        self._ropes = {rope: np.zeros((context, 2, config.rotated // 2), np.float32) for rope in ropes}
        self._rope_filled = 0
        temperature = model.config.query_temperature
        self._position_factors = None if temperature is None else temperature.factors(0, context)

    def quantized(self, kind: ActivationKind) -> int:
        """Address of the buffer for matmul inputs of an activation kind."""
        return self._quantized[kind].ctypes.data

    def gathered(self, kind: ActivationKind) -> int:
        """Address of the buffer for the rows that experts multiply, sorted by expert."""
        return self._gathered[kind].ctypes.data

    @property
    def every_head(self) -> int:
        """Address of the numbers of all heads, `[heads]`, for products with a matrix for each."""
        return self._every_head.ctypes.data

    @property
    def grouping(self) -> int:
        """Address of the grouping of the current chunk, see `experts`."""
        return self._grouping.ctypes.data

    @property
    def places(self) -> int:
        """Address of the place of each slot, see `experts`."""
        return self._places.ctypes.data

    def keys(self, layer: int) -> int:
        """Address of a layer's keys: `plane` / 16 tiles of each head, see `kv_cache`."""
        return int(self._keys[self._cache_place(layer)].ctypes.data)

    def values(self, layer: int) -> int:
        """Address of a layer's values, likewise."""
        return int(self._values[self._cache_place(layer)].ctypes.data)

    def _cache_place(self, layer: int) -> int:
        """Which of the caches a layer with attention has."""
        return self._attention[layer] % len(self._keys)

    def cached(self, op: Op, layer: int, positions: int) -> Array:
        """A copy of a layer's keys (for the scores) or values (for the attention), `[positions, kv_width]` from 0."""
        found = self._cached_rows(op, layer, positions)
        return found.reshape(-1, found.shape[-2] * found.shape[-1])[:positions].astype(np.float32)

    def fill_cache(self, op: Op, layer: int, rows: Array) -> None:
        """Make `rows` `[positions, kv_width]` the keys (for the scores) or values of positions 0 …, in float32."""
        assert self._kv is KvType.F32, "only replays fill a cache, and theirs is of that type"
        view = self._cached_rows(op, layer, rows.shape[0])
        missing = view.size // rows.shape[1] - rows.shape[0]
        view[...] = np.pad(rows, ((0, missing), (0, 0))).reshape(view.shape)

    def _cached_rows(self, op: Op, layer: int, positions: int) -> NDArray[np.floating]:
        """At least the first `positions` rows `[…, kv_heads, head_dim]` of a layer's keys or values; see `rows_of`."""
        cache = self._values if op is Op.ATTEND else self._keys
        tiles: NDArray[np.uint8] = cache[self._cache_place(layer)][:, : -(-positions // LANES)]
        return rows_of(self._kv, op, tiles, self._widths[op])

    def vector(self, node: Node) -> int:
        """Address of a node's norm weights, biases, sinks, factors, or weights of a convolution `[taps, channels]`."""
        return self._vectors[node].ctypes.data

    def rope(self, layer: int) -> int:
        """Address of a layer's RoPE table `[context, 2, rotated channels / 2]` of cosines and sines."""
        return self._ropes[self._rope_of(layer)].ctypes.data

    @property
    def position_factors(self) -> int:
        """Address of what queries are multiplied by, `[context]`."""
        assert self._position_factors is not None
        return self._position_factors.ctypes.data

    def fill_rope(self, positions: int) -> None:
        """Make sure that the RoPE tables hold the first `positions` positions.

        They grow by whole blocks: long contexts cost nothing until they are used.
        """
        while self._rope_filled < positions:
            count = min(_ROPE_BLOCK, self.context - self._rope_filled)
            for rope, table in self._ropes.items():
                turns = rope.turns(self._rope_filled, count, 2 * table.shape[2], self._rope_angles)
                table[self._rope_filled : self._rope_filled + count] = np.stack(turns, axis=1)
            self._rope_filled += count


class RecurrentStorage:
    """What recurrent layers keep of the tokens so far: rows for the convolution, and the state of the delta rule.

    There is room for `cached_layers`, or fewer where fewer layers are recurrent; layers use it in turn.
    """

    def __init__(self, config: GraphConfig, cached_layers: int) -> None:
        self._places = {layer: place for place, layer in enumerate(config.layers_with(TokenMixer.RECURRENCE))}
        count = min(cached_layers, len(self._places))
        self._rows = np.zeros((count, max(config.conv_kernel - 1, 0), config.linear_qkv_width), np.float32)
        self._states = np.zeros((count, config.linear_state_width), np.float32)
        self._kept: tuple[Array, Array] | None = None

    def __bool__(self) -> bool:
        return bool(self._places)

    def rows(self, layer: int) -> int:
        """Address of the last rows `[taps − 1, channels]` that went into a layer's convolution."""
        return int(self._rows[self._places[layer] % len(self._rows)].ctypes.data)

    def state(self, layer: int) -> int:
        """Address of the state `[value heads, value channels, key channels]` that goes on to the next token."""
        return int(self._states[self._places[layer] % len(self._states)].ctypes.data)

    def put_state(self, layer: int, state: Array) -> None:
        """Make `state` `[numbers of the state]` what goes on to the next token."""
        self._states[self._places[layer] % len(self._states)] = state

    def clear(self) -> None:
        """As before the first token."""
        self._rows[...], self._states[...] = 0, 0

    def keep(self) -> None:
        """Remember what there is, to go back to it."""
        self._kept = self._rows.copy(), self._states.copy()

    def go_back(self) -> None:
        """What `keep` remembered last."""
        assert self._kept is not None
        self._rows[...], self._states[...] = self._kept


def _aligned(size: int) -> NDArray[np.uint8]:
    whole = np.empty(size + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + size]


def _widest_inputs(model: Model, mode: Mode, *ops: Op) -> dict[ActivationKind, int]:
    """Bytes of the widest row that a node of one of `ops` multiplies, of each activation kind."""
    sizes: dict[ActivationKind, int] = {}
    for node in model.graph.nodes:
        if model.graph[node.stage].op in ops:
            for weight in model.params(node):
                kind = activation_kind(weight.type, mode)
                sizes[kind] = max(sizes.get(kind, 0), activation_bytes(kind, weight.columns))
    return sizes
