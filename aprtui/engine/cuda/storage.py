"""What an engine keeps on its device: weights, K/V cache, the stages of a token and of a chunk of a prompt.

Weights are rearranged where no vector load can take the blocks: those of 18, 22, 34 and 210 bytes put every field at an
odd address. A matrix of such blocks is stored as planes, field by field: all of its first fields, then all of its
second ones, and so on, in as many bytes as before. `kernels/formats.cuh` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cuda import sizes
from aprtui.engine.cuda.arguments import Matrix, Q8Output, Sorted, SplitColumns
from aprtui.engine.cuda.driver import Driver
from aprtui.engine.protocol import KvType, Mode
from aprtui.model.config import Rope
from aprtui.model.model import Model
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node

_STAGING = 16 << 20
_STEP_BYTES = 16  # of `Step` in types.cuh
_LOAD = 16  # bytes of a vector load


def in_planes(kind: WeightType) -> bool:
    """Whether matrices of `kind` are rearranged; the others are copied as they lie in the file."""
    return kind.format.is_quantised and kind.format.block_bytes % _LOAD != 0


def _fields(kind: WeightType) -> list[slice]:
    """The bytes of each field of a block in the order of the planes: the widest first, so that all are aligned."""
    found: list[slice] = []
    for field in kind.format.fields:
        start = found[-1].stop if found else 0
        found.append(slice(start, start + field.size))
    return sorted(found, key=lambda bytes_: bytes_.start - bytes_.stop)


def planes(kind: WeightType, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The rows `data` `[rows, row_bytes]` of a matrix of `kind` as the kernels want them, `[rows · row_bytes]`.

    A whole matrix must be given: planes span all of its rows.
    """
    if not in_planes(kind):
        return data.reshape(-1)
    out = np.empty(data.size, np.uint8)
    blocks = data.reshape(-1, kind.format.block_bytes)
    start = 0
    for field in _fields(kind):
        plane = out[start : start + len(blocks) * (field.stop - field.start)].reshape(len(blocks), -1)
        plane[:] = blocks[:, field]
        start += plane.size
    return out


class Uploader:
    """Copies host arrays to the device through two halves of pinned memory: one is filled while the other is copied."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._halves = [driver.pinned(_STAGING, np.uint8) for _ in range(2)]

    def upload(self, address: int, values: NDArray[np.uint8]) -> None:
        """Copy `values` `[bytes]`; afterwards they are copied, or queued in the order of the stream."""
        for piece, start in enumerate(range(0, values.size, _STAGING)):
            half = self._halves[piece % 2]
            if piece % 2 == 0:
                self._driver.synchronize()  # what was copied from either half is done
            count = min(_STAGING, values.size - start)
            half[:count] = values[start : start + count]
            self._driver.copy_in(address + start, half[:count])

    def close(self) -> None:
        """Wait for the last copy and give the pinned memory back."""
        self._driver.synchronize()
        for half in self._halves:
            self._driver.unpin(half)


@dataclass(frozen=True, slots=True)
class Weights:
    """Addresses of a model's matrices and vectors, by the name of the weight."""

    matrices: dict[str, int]
    vectors: dict[str, int]

    def matrix(self, weight: Weight) -> Matrix:
        return Matrix(self.matrices[weight.name], int(weight.type), weight.rows, weight.columns)


def load_weights(driver: Driver, model: Model, progress: Progress) -> Weights:
    """Put all weights on the device: types without aligned blocks as planes, vectors in float32.

    They share one allocation: the driver rounds each one up by up to 2 MB, which would waste 200 MB for a 7B model.
    """
    uploader, loaded = Uploader(driver), Weights({}, {})
    place = driver.allocate(sizes.weight_bytes(model))
    total = sum(weight.data.nbytes for weight in model.weights.values()) >> 20
    done = 0
    for node in model.graph.nodes:
        is_vector = model.graph[node.stage].op in sizes.VECTORS
        addresses = loaded.vectors if is_vector else loaded.matrices
        for weight in model.params(node):
            if weight.name in addresses:
                continue  # an embedding table may be the head's matrix too
            values = weight.dequantize().reshape(-1).view(np.uint8) if is_vector else planes(weight.type, weight.data)
            addresses[weight.name] = place
            uploader.upload(place, values)
            place += sizes.aligned(values.size)
            done += weight.data.nbytes
            progress("loading weights, MB", done >> 20, total)
    uploader.close()
    return loaded


class DeviceStorage:
    """The engine's memory on the device but for the weights.

    One token has a buffer for each node, a chunk one for each stage."""

    def __init__(self, driver: Driver, model: Model, mode: Mode, kv: KvType, context: int, splits: int) -> None:
        config, graph = model.config.graph, model.graph
        self._driver, self._graph, self._config, self._model = driver, graph, config, model.config
        self.context, self.chunk = context, sizes.chunk_tokens(graph, context)
        self._plane = sizes.cache_bytes(model, kv) * context
        self._keys, self._values = (driver.allocate(self._plane * config.layers) for _ in range(2))
        self._turns = _turn_tables(driver, model, context)
        self.factors = _temperatures(driver, model, context)
        """`[context]`, what queries are multiplied by at their position; null for none."""
        self.step = driver.allocate(_STEP_BYTES + 4 * self.chunk)
        self.tokens = self.step + _STEP_BYTES
        widths = graph.row_widths
        self.of_chunk = {name: driver.allocate(4 * self.chunk * width) for name, width in widths.items()}
        """Addresses of `[chunk, width]` of the stages, used layer after layer."""
        self.of_token = self._place_nodes(widths)
        """Addresses of `[width]` of the nodes that are no maps, while single tokens are evaluated."""
        self.q8 = {
            name: Q8Output(driver.allocate(self.chunk * widths[name]), driver.allocate(self.chunk * widths[name] // 4))
            for name in (sizes.matmul_inputs(graph) if mode is Mode.Q8 else ())
        }
        """`[chunk, width]` of the stages that matrix products read, in Q8_1."""
        logits = 4 * sizes.LOGIT_ROWS * config.vocabulary
        self.logits = driver.allocate(logits)
        self.uncapped = driver.allocate(logits) if config.logit_softcap else self.logits
        """What a softcap makes logits of."""
        slots, tiles = sizes.sorting_bytes(config, self.chunk)
        self._slots, self._tiles = (driver.allocate(size) if size else 0 for size in (slots, tiles))
        sums, of_tiles = sizes.split_bytes(model, self.chunk) if mode is Mode.Q8 else (0, 0)
        self._sums, self._tile_counters = (driver.allocate(size) if size else 0 for size in (sums, of_tiles))
        if of_tiles:
            driver.upload(self._tile_counters, np.zeros(of_tiles // 4, np.uint32))
        self.partial = driver.allocate(4 * config.heads * splits * (config.head_dim + 2))
        self._states = driver.allocate(8 * config.heads * config.layers)
        counters = np.zeros(config.heads + 2 * config.kv_heads, np.uint32)
        self.counters = driver.allocate(counters.nbytes)
        driver.upload(self.counters, counters)
        self._maps_of_layer = len(sizes.map_stages(graph))
        self._maps = self._map_stride = 0
        self._chunk_maps = 0

    def _place_nodes(self, widths: Mapping[str, int]) -> dict[Node, int]:
        """Addresses of the nodes, one after the other, so that neighbours can be copied to the host together."""
        offsets: dict[Node, int] = {}
        end = 0
        for node in self._graph.nodes:
            if node.stage in widths:
                offsets[node] = end
                end += sizes.aligned(4 * widths[node.stage])
        base = self._driver.allocate(end)
        return {node: base + offset for node, offset in offsets.items()}

    def turns(self, layer: int) -> int:
        """`[context, rotated / 2]` cosines and sines of a layer's RoPE; null where it has none."""
        return self._turns[self._model.rope_of(layer)] if self._config.has_rope(layer) else 0

    def keys(self, layer: int) -> int:
        """A layer's keys `[kv_heads, context, head_dim]`."""
        return self._keys + layer * self._plane

    def values(self, layer: int) -> int:
        """A layer's values, in the layout of the keys."""
        return self._values + layer * self._plane

    def reserve_token_maps(self, stride: int) -> bool:
        """Reserve the attention maps of one token in all layers, rows of `stride` keys; returns whether they moved."""
        if stride <= self._map_stride:
            return False
        if self._maps:
            self._driver.synchronize()
            self._driver.free(self._maps)
        self._maps = self._driver.allocate(self._config.layers * 4 * self._maps_of_layer * self._config.heads * stride)
        self._map_stride = stride
        return True

    def token_maps(self, layer: int) -> int:
        """Address of the attention maps of one token in a layer, as `reserve_token_maps` left them."""
        return self._maps + 4 * layer * self.map_layer_stride

    @property
    def map_layer_stride(self) -> int:
        """Values from the maps of one token in a layer to those in the next."""
        return self._maps_of_layer * self._config.heads * self._map_stride

    def sorted(self, rows: int = 0, of_token: int = 0) -> Sorted:
        """The choices of a chunk's tokens in the order of their experts, for products with `rows` rows of each."""
        return Sorted(self._slots, self._tiles, rows, of_token)

    def split(self, turns: int) -> SplitColumns:
        """Where parts of the columns of a prompt's products are added up, so many times 128 of them each."""
        return SplitColumns(self._sums, self._tile_counters, turns)

    def states(self, layer: int) -> int:
        """Where a layer's attention of one token leaves the largest score and the sum of each head's exponentials."""
        return self._states + 8 * self._config.heads * layer

    def chunk_maps(self) -> int:
        """Address of the attention maps of a chunk; allocated on first use."""
        if not self._chunk_maps:
            self._chunk_maps = self._driver.allocate(
                sizes.chunk_map_bytes(self._graph, self._config.heads, self.context)
            )
        return self._chunk_maps

    def tokens_with_maps(self, positions: int) -> int:
        """Tokens of a chunk whose maps fit where there will be `positions` in all."""
        return max(1, min(self.chunk, sizes.MAP_BYTES // (4 * self._maps_of_layer * self._config.heads * positions)))


def _turn_tables(driver: Driver, model: Model, context: int) -> dict[Rope, int]:
    """Addresses of the cosines and sines `[context, rotated / 2, 2]` of each rotation that a layer has."""
    dim, rows = model.config.graph.rotated, 4096
    tables = {rope: driver.allocate(4 * context * dim) for rope in sizes.rotations(model)}
    for rope, address in tables.items():
        for first in range(0, context, rows):
            turns = np.stack(rope.turns(first, min(rows, context - first), dim), -1).astype(np.float32)
            driver.upload(address + 4 * first * dim, turns)
    return tables


def _temperatures(driver: Driver, model: Model, context: int) -> int:
    """Address of the factors of queries by their position, where the model has them; otherwise null."""
    if model.config.query_temperature is None:
        return 0
    address = driver.allocate(4 * context)
    driver.upload(address, model.config.query_temperature.factors(0, context))
    return address
