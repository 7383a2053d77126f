"""The CPU backend: stage graph, weights and kernels put together behind the `Engine` protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.lowering import lower
from aprtui.engine.cpu.plan import Delivery, ProgramSegment, TapPlan, plan_for
from aprtui.engine.cpu.runner import Runner
from aprtui.engine.cpu.storage import CpuStorage
from aprtui.engine.cpu.tier import TIER
from aprtui.engine.protocol import (
    NO_TAPS,
    Intervention,
    KvType,
    Logits,
    Mode,
    NodeCall,
    Taps,
    TapSink,
    require_known,
    require_positions,
    takes_sums,
)
from aprtui.engine.reference.history import ATTENTION_HISTORY, HISTORY
from aprtui.engine.rounding import ARITHMETIC
from aprtui.machine import processor_name
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node
from aprtui.trace.stats import Accumulator

Array = NDArray[np.float32]

_PLANS = 8
"""Plans that are cached: a session uses one for the prompt, one for decoding, one for what is on the screen."""


class CpuEngine:
    """`Engine` on numba kernels. Weights stay quantised in the mapped file.

    An intervention cuts the program at its nodes and is called in between; without one, there are no cuts.
    """

    backend = "cpu"

    def __init__(
        self, model: Model, mode: Mode, kv: KvType, threads: int, context: int, progress: Progress | None = None,
        intervention: Intervention | None = None,
    ) -> None:  # fmt: skip
        self.graph = model.graph
        self.mode, self.kv, self.context = mode, kv, context
        self.threads: int | None = threads
        self.code_path, self.device = f"numba-{TIER}", processor_name()
        self.rounding = ARITHMETIC[mode].stated(model, kv)
        self._model, self._config = model, model.config.graph
        self._intervention = intervention
        self.position = 0
        """Positions evaluated since the last reset."""
        storage = CpuStorage(model, mode, kv, context, ARITHMETIC[mode].rope_angles, self._config.layers)
        self._plans: dict[tuple[frozenset[Node], frozenset[Node]], TapPlan] = {}
        self._latest: tuple[Taps, TapPlan] | None = None
        self._runner = Runner(model, mode, storage, threads, progress)
        self._ids = np.empty(0, np.int64)
        self._kept = 0
        self._settled = True
        self._seen: dict[tuple[Node, int], Array] = {}

    def reset(self, position: int = 0) -> None:
        if position != self.position:
            self._settled = False
        self.position = position
        self._settle()

    def _settle(self) -> None:
        """Bring the recurrent layers to where the engine stands, if they are elsewhere.

        They forget no single tokens: those since the state that was kept last are evaluated again, else all.
        """
        recurrent = self._runner.storage.recurrent
        if self._settled or not recurrent:
            return
        if 0 < self._kept <= self.position:
            recurrent.go_back()
        else:
            recurrent.clear()
            self._kept = 0
        plan, none = self._plan_of(NO_TAPS), np.empty((0, self._config.vocabulary), np.float32)
        chunk = self._runner.chunk(self.position, maps=plan.program.maps)
        for begin in range(self._kept, self.position, chunk):
            self._evaluate(self._ids[begin : min(begin + chunk, self.position)], begin, none, plan, None)
        self._settled = True

    def _keep(self, ids: NDArray[np.int64]) -> None:
        """Remember the tokens `ids` that were evaluated last, and behind a prompt the states."""
        self._ids = np.concatenate([self._ids[: self.position - ids.size], ids])
        if ids.size > 1:
            self._runner.storage.recurrent.keep()
            self._kept = self.position
        self._settled = True

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._runner.close()

    def forward(self, tokens: Sequence[int], taps: Taps = NO_TAPS, logits: Logits = Logits.LAST) -> Array:
        require_positions(self, len(tokens))
        ids = np.asarray(tokens, np.int64)
        require_known(ids, self._config.vocabulary)
        self._settle()
        plan = self._plan(taps)
        plan.clear_durations()
        self._settled = False
        out = np.empty((ids.size if logits is Logits.ALL else 1, self._config.vocabulary), np.float32)
        chunk = self._runner.chunk(self.position + ids.size, maps=plan.program.maps)
        for begin in range(0, ids.size, chunk):
            part = ids[begin : begin + chunk]
            if logits is Logits.ALL:
                rows = out[begin : begin + part.size]
            else:
                rows = out if begin + part.size == ids.size else out[:0]
            self._evaluate(part, self.position + begin, rows, plan, taps.sink)
        self.position += ids.size
        if self._runner.storage.recurrent:
            self._keep(ids)
        return out

    def stage_seconds(self) -> NDArray[np.float32]:
        """See `TimedEngine`. Kernels fuse neighbouring stages; statistics of taps count for none."""
        if self._latest is None:
            return np.full(len(self.graph.nodes), np.nan, np.float32)
        return self._latest[1].node_seconds()

    def _plan(self, taps: Taps) -> TapPlan:
        # Most passes have the taps of the one before. To compare two sets of 1,363 nodes takes 60 µs.
        if self._latest is None or self._latest[0] is not taps:
            self._latest = taps, self._plan_of(taps)
        return self._latest[1]

    def _plan_of(self, taps: Taps) -> TapPlan:
        key = (taps.full, taps.stats)
        if key not in self._plans:
            if len(self._plans) == _PLANS:
                self._plans.clear()
            cuts = self._intervention.nodes if self._intervention else frozenset()
            program = lower(self._model, self.mode, self.kv, self._runner.storage, taps.full, taps.stats, cuts)
            self._plans[key] = plan_for(program, self.graph, taps)
        return self._plans[key]

    def _evaluate(
        self, ids: NDArray[np.int64], position: int, logits: Array, plan: TapPlan, sink: TapSink | None
    ) -> None:
        """Run one chunk; `logits` are the rows of its last tokens that are wanted."""
        self._runner.load(plan, ids, position, logits, maps=plan.program.maps)
        begin = 0
        for segment in plan.layers if ids.size > 1 else plan.steps:
            self._runner.run(begin, segment.end)
            if segment.cut is not None:
                self._intervene(segment.cut, ids, position)
            if sink is not None and segment.deliveries:
                self._deliver(segment, plan, position, ids.size, logits, sink)
            begin = segment.end

    def _intervene(self, node: Node, ids: NDArray[np.int64], position: int) -> None:
        assert self._intervention is not None
        output, inputs = self._runner.tensor(node), self._runner.inputs(node)
        if not output.size:
            return  # logits of a chunk that are not wanted
        op = self.graph[node.stage].op
        for index in range(len(inputs)):
            if (op, index) in ATTENTION_HISTORY:
                assert node.layer is not None
                inputs[index] = self._runner.storage.cached(op, node.layer, position + ids.size)
            elif (op, index) in HISTORY:
                inputs[index] = self._with_earlier((node, index), inputs[index], position)
        first = ids.size - output.shape[-2]
        views = tuple(_read_only(values) for values in inputs)
        call = NodeCall(node, views, _read_only(output), ids[first:].tolist(), position + first)
        replacement = self._intervention(call)
        assert replacement.shape == output.shape, f"{node}: an intervention must keep the shape"
        output[...] = replacement

    def _with_earlier(self, key: tuple[Node, int], rows: Array, position: int) -> Array:
        """`rows` from `position` on, and before them those of earlier calls, which nothing but this remembers."""
        earlier = self._seen.get(key, rows[:0])[:position]
        self._seen[key] = np.concatenate([earlier, rows])
        return self._seen[key]

    def _deliver(
        self, segment: ProgramSegment, plan: TapPlan, position: int, tokens: int, logits: Array, sink: TapSink
    ) -> None:
        last, first_logits = position + tokens - 1, position + tokens - logits.shape[0]
        if takes_sums(sink):
            sink.put_sums(*plan.sums(segment, logits=bool(logits.size)))
            handed_out: Iterable[tuple[Delivery, Accumulator | None]] = ((delivery, None) for delivery in segment.full)
        else:
            handed_out = zip(segment.deliveries, plan.accumulators(segment), strict=True)
        for delivery, stats in handed_out:
            values = self._runner.tensor(delivery.node) if delivery.full else None
            if not delivery.logits:
                sink.put(delivery.node, position, values, stats)
            elif logits.size:
                sink.put(delivery.node, last if delivery.state else first_logits, values, stats)


def _read_only(values: Array) -> Array:
    view = values.view()
    view.flags.writeable = False
    return view
