"""How much memory an engine needs on its device, computed before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aprtui.engine.protocol import KvType, Mode
from aprtui.errors import EngineError
from aprtui.trace.graph import Axis, Op, Stage, StageGraph

if TYPE_CHECKING:
    from aprtui.model.model import Model

LOGIT_ROWS = 64
"""Most tokens of a pass whose logits are wanted: for more, the prompt is evaluated in smaller chunks."""

MAP_BYTES = 64 << 20
"""Attention maps of a chunk take no more than this; long contexts get smaller chunks."""

_MOST_TOKENS = 512
_STAGE_BYTES = 128 << 20
_SPARE = 64 << 20
"""What is left free: allocations are rounded up, and attention maps are made room for when they are first tapped."""


def is_logits(stage: Stage) -> bool:
    """Whether the stage is computed only for the tokens whose logits are wanted."""
    return Axis.VOCABULARY in stage.axes


def stage_widths(graph: StageGraph) -> dict[str, int]:
    """Channels of the stages that always have a buffer: all but attention maps and logits."""
    return {s.name: s.width for s in graph.stages if not s.is_attention_map and not is_logits(s)}


def chunk_tokens(graph: StageGraph, context: int) -> int:
    """Tokens of a prompt evaluated at a time."""
    row = 4 * sum(stage_widths(graph).values())
    return max(1, min(_MOST_TOKENS, context, _STAGE_BYTES // row))


def matmul_inputs(graph: StageGraph) -> frozenset[str]:
    """Stages that matrix products read."""
    return frozenset(entry.stage for stage in graph.stages if stage.op is Op.MATMUL for entry in stage.inputs)


def cache_bytes(model: Model, kv: KvType) -> int:
    """Bytes of one layer's keys (or values) of one position."""
    return (2 if kv is KvType.F16 else 4) * model.config.graph.kv_width


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes on the device: of the weights, of each position of the context, and of everything else."""

    weights: int
    per_position: int
    context: int
    stages: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.per_position * self.context + self.stages + _SPARE

    def __str__(self) -> str:
        cache = _text(self.per_position * self.context)
        parts = f"weights {_text(self.weights)}, K/V cache of {self.context} positions {cache}, stages"
        return f"{_text(self.total)} ({parts} {_text(self.stages)})"

    def largest_context(self, free: int) -> int:
        """Positions that fit into `free` bytes; 0 where not even the weights do."""
        return max(0, (free - replace(self, context=0).total) // self.per_position)

    def require_fits(self, free: int) -> None:
        """Raise `EngineError` with the numbers, and what would fit, if this is more than `free` bytes."""
        if self.total <= free:
            return
        fits = self.largest_context(free)
        cure = f"use --context {fits} (or --context fit)" if fits else "use a smaller model, or --backend cpu"
        raise EngineError(f"backend cuda: {self} are needed on the device, {_text(free)} are free: {cure}")


def memory_need(model: Model, mode: Mode, kv: KvType, context: int) -> MemoryNeed:
    """What `model` needs."""
    graph, config = model.graph, model.config.graph
    widths, chunk = stage_widths(graph), chunk_tokens(graph, context)
    of_tokens = sum(widths.get(node.stage, 0) for node in graph.nodes)
    of_chunk = chunk * sum(widths.values())
    q8 = 0 if mode is Mode.EXACT else chunk * sum(5 * widths[name] // 4 for name in matmul_inputs(graph))
    logits = LOGIT_ROWS * config.vocabulary
    return MemoryNeed(
        weights=sum(weight.data.nbytes for weight in model.weights.values()),
        per_position=2 * config.layers * cache_bytes(model, kv) + 4 * config.head_dim,
        context=context,
        stages=4 * (of_tokens + of_chunk + logits) + q8,
    )


def require_supported(model: Model) -> None:
    """Raise `EngineError` for widths that the kernels cannot take."""
    config = model.config.graph
    for what, width, unit in (
        ("hidden size", config.hidden, 32),
        ("feed-forward width", config.ffn, 32),
        ("width of the query heads", config.q_width, 32),
        ("head size", config.head_dim, 4),
    ):
        if width % unit:
            raise EngineError(
                f"backend cuda: the {what} is {width}, its kernels want a multiple of {unit}: use --backend cpu"
            )
    if config.head_dim > 256:
        raise EngineError(f"backend cuda: heads of {config.head_dim} channels, 256 at most: use --backend cpu")


def _text(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
