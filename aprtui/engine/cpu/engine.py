"""The CPU backend: stage graph, weights and kernels put together behind the `Engine` protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.attention import scratch_bytes as attention_scratch_bytes
from aprtui.engine.cpu.lowering import lower
from aprtui.engine.cpu.matmul import TIER
from aprtui.engine.cpu.matmul import scratch_bytes as matmul_scratch_bytes
from aprtui.engine.cpu.operations import compile_operations
from aprtui.engine.cpu.plan import Delivery, Plan, Segment, plan_for
from aprtui.engine.cpu.program import CONTROL
from aprtui.engine.cpu.storage import Storage
from aprtui.engine.cpu.threads import ThreadTeam
from aprtui.engine.protocol import NO_TAPS, KvType, Logits, Mode, Taps, TapSink, require_room
from aprtui.engine.rounding import ARITHMETIC
from aprtui.errors import UsageError
from aprtui.trace.graph import Node, Op

if TYPE_CHECKING:
    from aprtui.model.model import Model

Array = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

_MAP_BYTES = 64 << 20
"""Materialised attention maps take no more than this; long contexts get smaller chunks."""

_PLANS = 8
"""Plans that are kept: a session uses one for the prompt, one for decoding, one for what is on the screen."""


class CpuEngine:
    """`Engine` on numba kernels. Weights stay quantised in the mapped file."""

    backend = "cpu"

    def __init__(
        self, model: Model, mode: Mode, kv: KvType, threads: int, context: int, progress: Progress | None = None
    ) -> None:
        self.graph = model.graph
        self.mode, self.kv, self.context, self.threads = mode, kv, context, threads
        self.code_path = f"numba-{TIER}"
        self.rounding = ARITHMETIC[mode].stated(model, kv)
        self._model, self._config = model, model.config.graph
        self._position = 0
        self._storage = Storage(model, mode, kv, context)
        self._plans: dict[tuple[frozenset[Node], frozenset[Node]], Plan] = {}
        self._maps = {op: np.zeros(0, np.float32) for op in (Op.SCORES, Op.SOFTMAX)}
        self._control = np.zeros(1, CONTROL)
        self._scratch = self._make_scratch()
        compile_operations(progress or (lambda what, done, total: None))
        self._team = ThreadTeam(self._control, threads)

    def _make_scratch(self) -> NDArray[np.uint8]:
        config = self._config
        widest = max(weight.columns for weight in self._model.weights.values())
        matmul = _whole(matmul_scratch_bytes(widest), 64)
        attention = attention_scratch_bytes(self.context, config.head_dim, config.heads // config.kv_heads)
        each = _whole(matmul + attention, 4096)
        scratch = np.empty(each * self.threads + 64, np.uint8)
        self._control["scratch"] = _whole(scratch.ctypes.data, 64)
        self._control["scratch_bytes"] = each
        self._control["attention_scratch"] = matmul
        return scratch

    @property
    def position(self) -> int:
        """Positions evaluated since the last reset."""
        return self._position

    def reset(self) -> None:
        """Forget all positions."""
        self._position = 0

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._team.close()

    def forward(self, tokens: Sequence[int], taps: Taps = NO_TAPS, logits: Logits = Logits.LAST) -> Array:
        """Evaluate `tokens`; see `Engine.forward`."""
        require_room(self, len(tokens))
        ids = np.asarray(tokens, np.int64)
        self._require_known(ids)
        plan = self._plan(taps)
        out = np.empty((ids.size if logits is Logits.ALL else 1, self._config.vocabulary), np.float32)
        chunk = self._chunk(plan, ids.size)
        for begin in range(0, ids.size, chunk):
            part = ids[begin : begin + chunk]
            if logits is Logits.ALL:
                rows = out[begin : begin + part.size]
            else:
                rows = out if begin + part.size == ids.size else out[:0]
            self._evaluate(part, self._position + begin, rows, plan, taps.sink)
        self._position += ids.size
        return out

    def _require_known(self, ids: NDArray[np.int64]) -> None:
        vocabulary = self._config.vocabulary
        if not ids.size:
            raise UsageError("no tokens to evaluate: give at least one")
        unknown = ids[(ids < 0) | (ids >= vocabulary)]
        if unknown.size:
            raise UsageError(f"token id {unknown[0]} is not in the vocabulary: ids go from 0 to {vocabulary - 1}")

    def _plan(self, taps: Taps) -> Plan:
        key = (taps.full, taps.stats)
        if key not in self._plans:
            if len(self._plans) == _PLANS:
                self._plans.clear()
            program = lower(self._model, self.mode, self.kv, self._storage, taps.full, taps.stats)
            self._plans[key] = plan_for(program, self.graph, taps)
        return self._plans[key]

    def _chunk(self, plan: Plan, tokens: int) -> int:
        """Tokens evaluated at a time; no result depends on it."""
        if not plan.maps:
            return self._storage.chunk
        row_bytes = 8 * self._config.heads * (self._position + tokens)
        return max(1, min(self._storage.chunk, _MAP_BYTES // row_bytes))

    def _evaluate(self, ids: NDArray[np.int64], position: int, logits: Array, plan: Plan, sink: TapSink | None) -> None:
        """Run one chunk; `logits` are the rows of its last tokens that are wanted."""
        control, tokens = self._control, ids.size
        self._storage.fill_rope(position + tokens)
        control["program"] = plan.program.instructions.ctypes.data
        control["counters"] = plan.counters.ctypes.data
        control["statistics"] = plan.table.ctypes.data
        control["logits"] = logits.ctypes.data
        control["ids"], control["tokens"], control["position"] = ids.ctypes.data, tokens, position
        control["wanted"] = tokens - logits.shape[0]
        if plan.maps:
            self._materialise_maps(tokens, position)
        begin = 0
        for segment in plan.layers if tokens > 1 else plan.steps:
            control["begin"], control["end"] = begin, segment.end
            self._team.run()
            if sink is not None and segment.deliveries:
                self._deliver(segment, plan, position, tokens, logits, sink)
            begin = segment.end

    def _materialise_maps(self, tokens: int, position: int) -> None:
        size = self._config.heads * tokens * (position + tokens)
        for op in self._maps:
            if self._maps[op].size < size:
                self._maps[op] = np.zeros(max(size, self._config.heads * self.context), np.float32)
        self._control["scores"] = self._maps[Op.SCORES].ctypes.data
        self._control["softmax"] = self._maps[Op.SOFTMAX].ctypes.data

    def _deliver(self, segment: Segment, plan: Plan, position: int, tokens: int, logits: Array, sink: TapSink) -> None:
        first_logits = position + tokens - logits.shape[0]
        for delivery, stats in zip(segment.deliveries, plan.accumulators(segment), strict=True):
            if not delivery.logits:
                sink.put(delivery.node, position, self._values(delivery, tokens, position), stats)
            elif logits.size:
                sink.put(delivery.node, first_logits, logits if delivery.full else None, stats)

    def _values(self, delivery: Delivery, tokens: int, position: int) -> Array | None:
        if not delivery.full:
            return None
        stage = self.graph[delivery.node.stage]
        if stage.is_attention_map:
            shape = (stage.width, tokens, position + tokens)
            return self._maps[stage.op][: np.prod(shape)].reshape(shape)
        return self._storage.stage(stage.name)[:tokens]


def _whole(size: int, unit: int) -> int:
    """`size` rounded up to a multiple of `unit`."""
    return -(-size // unit) * unit
