"""How much memory an engine needs on its device, computed before anything is loaded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from aprtui.engine.protocol import KvType, Mode
from aprtui.errors import EngineError
from aprtui.model.config import ModelConfig, Rope
from aprtui.model.model import Model
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op
from aprtui.trace.graph.stage_graph import StageGraph

LOGIT_ROWS = 64
"""Most tokens of a pass whose logits are wanted: for more, the prompt is evaluated in smaller chunks."""

MAP_BYTES = 64 << 20
"""Attention maps of a chunk take no more than this; long contexts get smaller chunks."""

_MOST_TOKENS = 512
_STAGE_BYTES = 128 << 20
_TILE, _ROWS, _COLUMNS = 64, 128, 128  # tokens, rows and columns that tensor cores take at a time
_BLOCKS, _MOST_PARTS, _LEAST_TURNS = 128, 8, 2
"""Blocks that columns are split for, parts of them at most, and turns of a part at least."""
_SPARE = 64 << 20
"""What is left free: each of some forty allocations is rounded up by the driver, to 2 MB."""

_ALIGNED = 256  # bytes at which weights and the stages of a token begin

VECTORS = frozenset({Op.RMS_NORM, Op.HEAD_RMS_NORM, Op.BIAS, Op.EXPERT_BIAS, Op.SOFTMAX})
"""Ops whose parameters are stored as float32 vectors."""


def chunk_tokens(graph: StageGraph, context: int) -> int:
    """Tokens of a prompt evaluated at a time."""
    row = 4 * sum(graph.row_widths.values())
    fitting = max(1, min(_MOST_TOKENS, _STAGE_BYTES // row))
    whole_tiles = fitting // _TILE * _TILE or fitting
    return min(whole_tiles, context)


def matmul_inputs(graph: StageGraph) -> frozenset[str]:
    """Stages that matrix products read."""
    return frozenset(stage.inputs[0].stage for stage in graph.stages if stage.op in MATRIX_PRODUCTS)


def map_stages(graph: StageGraph) -> tuple[str, ...]:
    """The attention maps of a layer, in the order in which they lie side by side."""
    return tuple(stage.name for stage in graph.stages if stage.is_attention_map)


def rotations(model: Model) -> frozenset[Rope]:
    """What turns queries and keys, of all layers."""
    config = model.config
    return frozenset(config.rope_of(layer) for layer in range(config.graph.layers) if config.graph.has_rope(layer))


def cache_bytes(model: Model, kv: KvType) -> int:
    """Bytes of one layer's keys (or values) of one position."""
    return (2 if kv is KvType.F16 else 4) * model.config.graph.kv_width


def chunk_map_bytes(graph: StageGraph, heads: int, context: int) -> int:
    """Bytes of the attention maps of a chunk: of at least one token, for any context."""
    a_token = 4 * len(map_stages(graph)) * heads * context
    return max(min(MAP_BYTES, a_token * chunk_tokens(graph, context)), a_token)


def split_turns(row_tiles: int, columns: int) -> int:
    """How many times 128 columns a block of `matmul_q8` takes, where the rows of its matrices make so many tiles.

    Few tiles are shared out, so that a short prompt has blocks for all multiprocessors. The number of tokens has no
    part in that, because sums depend on it.
    """
    turns = -(-columns // _COLUMNS)
    return -(-turns // max(1, min(_MOST_PARTS, _BLOCKS // row_tiles, turns // _LEAST_TURNS)))


def split_bytes(model: Model, tokens: int) -> tuple[int, int]:
    """Bytes of the sums of parts of columns, and of the counters of their tiles, of the widest split products."""
    tiles = parts = 0
    for node in model.graph.nodes:
        if model.graph[node.stage].op is not Op.MATMUL:
            continue
        each = [-(-weight.rows // _ROWS) for weight in model.params(node)]
        # Gate and up go together; a matrix goes alone where one beside it is of a type that tensor cores do not take.
        for count in {sum(each), 2 * sum(each), *each}:
            turns = -(-model.params(node)[0].columns // _COLUMNS)
            shared = -(-turns // split_turns(count, _COLUMNS * turns))
            if shared > 1:
                tiles, parts = max(tiles, count), max(parts, count * shared)
    of_tokens = -(-tokens // _TILE)
    return 4 * _ROWS * _TILE * parts * of_tokens, 4 * tiles * of_tokens


def expert_tiles(slots: int, experts: int) -> int:
    """Tiles of slots of one expert that tensor cores take, as many as so many choices can make."""
    return slots // _TILE + min(slots, experts)


def sorting_bytes(config: GraphConfig, tokens: int) -> tuple[int, int]:
    """Bytes of the choices of so many tokens in the order of their experts, and of the tiles that these make."""
    slots = tokens * config.experts_used if config.experts else 0
    return 4 * slots, 16 * expert_tiles(slots, config.experts)


def aligned(size: int) -> int:
    """`size` rounded up to where the next thing may begin."""
    return -(-size // _ALIGNED) * _ALIGNED


def weight_bytes(model: Model) -> int:
    """Bytes of all weights on the device: matrices as large as in the file, vectors in float32, each aligned."""
    sizes: dict[str, int] = {}
    for node in model.graph.nodes:
        is_vector = model.graph[node.stage].op in VECTORS
        for weight in model.params(node):
            sizes[weight.name] = aligned(4 * weight.rows * weight.columns if is_vector else weight.data.nbytes)
    return sum(sizes.values())


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes on the device: of the weights, of each position of the context, and of everything else.

    A position takes its keys and values, its RoPE angles, and a column of every layer's attention maps, which are
    allocated when they are first tapped.
    """

    weights: int
    per_position: int
    context: int
    stages: int

    @property
    def total(self) -> int:
        return self.weights + self.per_position * self.context + self.stages + _SPARE

    def __str__(self) -> str:
        cache = _text(self.per_position * self.context)
        parts = f"weights {_text(self.weights)}, K/V cache and maps of {self.context} positions {cache}, stages"
        return f"{_text(self.total)} ({parts} {_text(self.stages)})"


def memory_need(model: Model, mode: Mode, kv: KvType, context: int) -> MemoryNeed:
    graph, config = model.graph, model.config.graph
    widths, chunk = graph.row_widths, chunk_tokens(graph, context)
    of_tokens = sum(aligned(4 * widths.get(node.stage, 0)) for node in graph.nodes)
    of_chunk = chunk * sum(widths.values())
    q8 = 0 if mode is Mode.EXACT else chunk * sum(5 * widths[name] // 4 for name in matmul_inputs(graph))
    logits = (2 if config.logit_softcap else 1) * LOGIT_ROWS * config.vocabulary
    return MemoryNeed(
        weights=weight_bytes(model),
        per_position=2 * config.layers * cache_bytes(model, kv)
        + 4 * config.rotated * len(rotations(model))
        + (4 if config.query_temperature else 0)
        + 4 * len(map_stages(graph)) * config.layers * config.heads,
        context=context,
        stages=of_tokens
        + 4 * (of_chunk + logits)
        + q8
        + chunk_map_bytes(graph, config.heads, context)
        + sum(sorting_bytes(config, chunk))
        + (0 if mode is Mode.EXACT else sum(split_bytes(model, chunk))),
    )


def fitting_context(model: Model, mode: Mode, kv: KvType, context: int, free: int) -> int:
    """The most positions up to `context` with which `model` fits into `free` bytes; 0 where not even one does."""
    return bisect_right(range(1, context + 1), free, key=lambda count: memory_need(model, mode, kv, count).total)


def require_fits(model: Model, mode: Mode, kv: KvType, context: int, free: int) -> None:
    """Raise `EngineError` with the numbers, and what would fit, if more than `free` bytes are needed."""
    need = memory_need(model, mode, kv, context)
    if need.total <= free:
        return
    fits = fitting_context(model, mode, kv, context, free)
    cure = f"use --context {fits} (or --context fit)" if fits else "use a smaller model, or --backend cpu"
    raise EngineError(f"backend cuda: {need} are needed on the device, {_text(free)} are free: {cure}")


def require_supported(model: Model) -> None:
    """Raise `EngineError` for ops, weight types and widths that the kernels cannot take."""
    missing = next(_without_kernels(model.config), None)
    if missing is not None:
        raise EngineError(
            f"backend cuda: {model.architecture} has {missing}, for which there are no kernels: use --backend cpu"
        )
    for weight in model.weights.values():
        if weight.type.format.cuda_struct is None:
            raise EngineError(
                f"backend cuda: {weight.name} is stored as {weight.type.name}, which its kernels cannot read: "
                "use --backend cpu"
            )
    config = model.config.graph
    has_dense = not config.experts or any(config.dense)
    for what, width, unit in (
        ("hidden size", config.hidden, 32),
        ("feed-forward width", config.ffn if has_dense else 0, 32),
        ("width of an expert", config.expert_ffn if config.experts else 0, 32),
        ("width of the shared expert", config.shared_expert_ffn, 32),
        ("width of the query heads", config.q_width, 32),
        ("head size", config.head_dim, 8),
    ):
        if width % unit:
            raise EngineError(
                f"backend cuda: the {what} is {width}, its kernels want a multiple of {unit}: use --backend cpu"
            )
    for what, count, most in (
        ("channels of a head", config.head_dim, 256),
        ("channels of the residual stream", config.hidden, 16384),
        ("experts", config.experts, 512),
        ("experts a token", config.experts_used, 32),
    ):
        if count > most:
            raise EngineError(f"backend cuda: {count} {what}, its kernels take {most} at most: use --backend cpu")


def _without_kernels(config: ModelConfig) -> Iterator[str]:
    """What a model has that no kernel computes."""
    graph = config.graph
    if graph.latent is not None:
        yield f"latent attention (op {Op.HEAD_JOIN})"
    yield from _without_hybrid_kernels(graph)


def _without_hybrid_kernels(graph: GraphConfig) -> Iterator[str]:
    """What models with recurrent layers have that no kernel computes."""
    if any(graph.recurrent):
        yield f"layers with a recurrence (op {Op.DELTA_STATE})"
    if graph.gated_attention:
        yield f"a gate behind its attention (op {Op.HEAD_GATE})"
    if graph.shared_expert_ffn and graph.shared_expert_gate:
        yield f"a gate of its shared expert (op {Op.SCALE_ROWS})"


def _text(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
