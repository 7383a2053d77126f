"""A model on its device: what the thread that owns the device does for an engine.

While the host hands out one segment of a prompt, the device works at the next one: their copies take turns in two
halves of pinned memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cuda.choosing import ChoiceRule, Choosing, Rings
from aprtui.engine.cuda.driver import Driver, Launch
from aprtui.engine.cuda.images import KernelImages
from aprtui.engine.cuda.launches import Launches, load_kernels, splits_for
from aprtui.engine.cuda.lowering import Lowering, Pass
from aprtui.engine.cuda.plan import PassPlan, PassSegment, plan_for
from aprtui.engine.cuda.sizes import LOGIT_ROWS
from aprtui.engine.cuda.statistics import StatisticsTable
from aprtui.engine.cuda.storage import DeviceStorage, load_weights
from aprtui.engine.cuda.usage import UsageMeter
from aprtui.engine.protocol import NO_TAPS, DeviceUse, KvType, Mode, Taps
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node

_PLANS = 12
"""Plans of one token that are kept: one while nobody looks, one for what is on the screen, some in reserve."""

_STRIDE = 512
"""Attention maps of one token have rows of a multiple of this: a plan serves as many positions."""

_STEP_INTS = 4  # of `Step` in types.cuh; the ids of the tokens lie behind it


@dataclass(frozen=True, slots=True)
class FinishedSegment:
    """A segment that is done, with the host's copies of its tapped stages and of what the blocks of its statistics
    came to; valid until the next but one is asked for."""

    segment: PassSegment
    staging: NDArray[np.float32]
    sums: NDArray[np.void]


@dataclass(frozen=True, slots=True)
class _TokenPlan:
    """A plan of one token; without a `rule` the host chooses the next one."""

    plan: PassPlan
    rule: ChoiceRule | None
    half: int
    graph: Any | None = None

    def finished(self, staging: NDArray[np.float32], sums: NDArray[np.void]) -> FinishedSegment:
        return FinishedSegment(self.plan.segments[0], staging, sums)


_Key = tuple[frozenset[Node], frozenset[Node], int, ChoiceRule | None, int]
_ChunkKey = tuple[int, int, int, bool, bool, frozenset[Node], frozenset[Node]]


class Device:
    """All that one engine has on its device. Every method belongs to the thread that owns the device."""

    def __init__(
        self, driver: Driver, images: KernelImages, model: Model, mode: Mode, kv: KvType, context: int,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.driver, self._graph = driver, model.graph
        config = model.config.graph
        launches = Launches(load_kernels(driver, images), mode)
        splits = splits_for(driver.multiprocessors, config.heads, config.kv_heads, context, capped=config.attn_softcap)
        weights = load_weights(driver, model, progress)
        self.storage = DeviceStorage(driver, model, mode, kv, context, splits)
        self._lowering = Lowering(model, kv, mode, weights, self.storage, launches, splits)
        self._table = StatisticsTable(driver, launches, model.graph, self.storage.step)
        self._control = driver.pinned(_STEP_INTS + self.storage.chunk, np.int32)
        self.logits: NDArray[np.float32] = driver.pinned((LOGIT_ROWS, config.vocabulary), np.float32)
        """Rows of the last pass, as many as were wanted."""
        self._staging: list[NDArray[np.float32]] = [driver.pinned(1, np.float32) for _ in range(2)]
        self._choosing = Choosing(driver, launches, self.storage, config.vocabulary)
        self._plans: dict[_Key, _TokenPlan] = {}
        self._chunk: tuple[_ChunkKey, PassPlan] | None = None
        self._retired: list[NDArray[np.float32]] = []
        self.launched: set[str] = set()
        """How passes of one token were launched so far: in graphs, or plainly where the driver refused to capture."""
        self._installed: PassPlan | None = None
        self._meter = UsageMeter(driver)
        self._one_token(NO_TAPS, 0)  # says how launches are made before anything is asked for

    def close(self) -> None:
        self.driver.close()

    def decode(self, token: int, position: int, taps: Taps) -> FinishedSegment:
        self._free_retired()
        plan = self._one_token(taps, position)
        self._set_input([token], position)
        self._run_token(plan)
        self.driver.synchronize()
        return plan.finished(self._staging[0], self._table.sums[0])

    def begin_choosing(self, token: int, position: int) -> None:
        """Make `token` the one that the next pass of `queue_choices` evaluates; its choice has the ordinal 0."""
        self._free_retired()
        self._set_input([token], position)
        self._choosing.begin()
        self.driver.copy_in(self.storage.step, self._control[: _STEP_INTS + 1])
        self.driver.synchronize()  # what is told next must not be read instead

    def queue_choices(self, turn: int, count: int, rule: ChoiceRule, uniforms: NDArray[np.float64]) -> None:
        """Queue `count` passes, batch number `turn` behind `begin_choosing`; `uniforms` if they draw.

        Each evaluates what the one before it has chosen.
        """
        plan = self._one_token(NO_TAPS, 0, rule)
        self._choosing.send_uniforms(uniforms)
        for _ in range(count):
            self._run_token(plan)
        self._choosing.fetch(rule)
        self.driver.mark(turn % 2)

    def choices(self, turn: int, more: int, rule: ChoiceRule, uniforms: NDArray[np.float64]) -> Rings:
        """Wait for batch number `turn`, not for the one queued behind it; queue the next but one, of `more` passes."""
        self.driver.wait(turn % 2)
        found = self._choosing.found(rule)
        if more:
            self.queue_choices(turn + 2, more, rule, uniforms)
        return found

    def queue_tapped(
        self, turn: int, position: int, taps: Taps, rule: ChoiceRule, uniforms: NDArray[np.float64]
    ) -> FinishedSegment:
        """Queue pass number `turn` behind `begin_choosing`; its stages, once `tapped` has waited for them."""
        plan = self._one_token(taps, position, rule, turn % 2)
        self._choosing.send_uniforms(uniforms)
        self._run_token(plan)
        self._choosing.fetch(rule)
        self.driver.mark(turn % 2)
        return plan.finished(self._staging[turn % 2], self._table.sums[turn % 2])

    def tapped(self, turn: int, rule: ChoiceRule) -> Rings:
        """Wait for that pass, not for the one queued behind it; what was chosen in it and before."""
        self.driver.wait(turn % 2)
        return self._choosing.found(rule)

    def prefill(
        self, tokens: list[int], position: int, wanted: int, taps: Taps, *, few: bool, few_of_expert: bool
    ) -> Iterator[FinishedSegment]:
        """Evaluate tokens of a prompt, segment by segment. `wanted` tokens at the end have logits.

        `few`, `few_of_expert`: the whole prompt is this short; see `Pass`.
        """
        self._free_retired()
        plan = self._chunk_plan(len(tokens), position, wanted, taps, few=few, few_of_expert=few_of_expert)
        self._install(plan)
        self._set_input(tokens, position)
        self.driver.copy_in(self.storage.step, self._control[: _STEP_INTS + len(tokens)])
        waiting: FinishedSegment | None = None
        for index, segment in enumerate(plan.segments):
            half = index % 2
            segment.queue(self.driver, self._table, self._staging[half], self._table.sums[half])
            if segment is plan.segments[-1] and wanted:
                self.driver.copy_out(self.logits[:wanted], self.storage.logits)
            if waiting is not None:
                yield waiting
            self.driver.synchronize()
            waiting = FinishedSegment(segment, self._staging[half], self._table.sums[half])
        assert waiting is not None
        yield waiting

    def _chunk_plan(
        self, tokens: int, position: int, wanted: int, taps: Taps, *, few: bool, few_of_expert: bool
    ) -> PassPlan:
        """The plan of a chunk; the last one is kept: the chunks of a long prompt are alike unless maps are tapped."""
        stride = position + tokens if self._has_maps(taps) else 0
        key = tokens, wanted, stride, few, few_of_expert, taps.full, taps.stats
        if self._chunk is None or self._chunk[0] != key:
            run = Pass(False, tokens, stride, wanted, taps.full | taps.stats, few, few_of_expert)
            plan = plan_for(self._lowering, self._table, run, taps)
            self._stage(max(segment.staged for segment in plan.segments))
            self._chunk = key, plan
        return self._chunk[1]

    def _has_maps(self, taps: Taps) -> bool:
        return any(self._graph[node.stage].is_attention_map for node in taps.full | taps.stats)

    def _set_input(self, tokens: list[int], position: int) -> None:
        self._control[:_STEP_INTS] = position, len(tokens), 0, 0
        self._control[_STEP_INTS : _STEP_INTS + len(tokens)] = tokens

    def _install(self, plan: PassPlan) -> None:
        if self._installed is not plan:
            self._table.install(plan.records)
            self._installed = plan

    def _stage(self, values: int) -> None:
        """Have room on the host for so many values, twice; graphs that write to smaller rooms are dropped."""
        if self._staging[0].size < values:
            self._drop_plans()
            self._retired += self._staging  # somebody may still be looking at what a pass left there
            self._staging = [self.driver.pinned(values, np.float32) for _ in range(2)]

    def _free_retired(self) -> None:
        for staging in self._retired:
            self.driver.unpin(staging)
        self._retired.clear()

    def _one_token(self, taps: Taps, position: int, rule: ChoiceRule | None = None, half: int = 0) -> _TokenPlan:
        """The plan of one token, with a graph where the driver captures. With a `rule` the device chooses.

        `half` says to which half of the host's memory its results go.
        """
        stride = min(self.storage.context, (position // _STRIDE + 1) * _STRIDE) if self._has_maps(taps) else 0
        if self.storage.reserve_token_maps(stride):
            self._drop_plans()
        key = taps.full, taps.stats, stride, rule, half
        if key not in self._plans:
            if len(self._plans) == _PLANS:
                self._drop_plans()
            plan = _TokenPlan(self._token_plan(taps, stride), rule, half)
            self._stage(plan.plan.segments[0].staged)
            plan = replace(plan, graph=self.driver.capture(lambda: self._queue_token(plan)))
            self.launched.add("plain launches" if plan.graph is None else "graphs")
            self._plans[key] = plan
        return self._plans[key]

    def _token_plan(self, taps: Taps, stride: int) -> PassPlan:
        """The one that both halves, and all ways to choose, have in common: its records are put on the device once."""
        for (full, stats, known_stride, *_), known in self._plans.items():
            if (full, stats, known_stride) == (taps.full, taps.stats, stride):
                return known.plan
        run = Pass(True, 1, stride, 1, taps.full | taps.stats)
        return plan_for(self._lowering, self._table, run, taps)

    def _drop_plans(self) -> None:
        self.driver.synchronize()  # a graph may be under way, and its memory is reused
        for plan in self._plans.values():
            if plan.graph is not None:
                self.driver.discard(plan.graph)
        self._plans.clear()

    def _run_token(self, plan: _TokenPlan) -> None:
        self._install(plan.plan)
        if plan.graph is None:
            self._queue_token(plan)
        else:
            self.driver.replay(plan.graph)

    def _queue_token(self, plan: _TokenPlan) -> None:
        """What the graph holds. The token is what the host tells, or what the pass before has chosen."""
        if plan.rule is None:
            self.driver.copy_in(self.storage.step, self._control[: _STEP_INTS + 1])
        half = plan.half
        plan.plan.segments[0].queue(self.driver, self._table, self._staging[half], self._table.sums[half])
        if plan.rule is None:
            self.driver.copy_out(self.logits[:1], self.storage.logits)
        else:
            for launch in self._choosing.launches(plan.rule):
                self.driver.launch(launch)

    def token_launches(self) -> tuple[Launch, ...]:
        """What one token takes while nobody taps, the choice left out."""
        return self._one_token(NO_TAPS, 0).plan.segments[0].launches

    def seconds(self, work: Callable[[Driver], None], times: int) -> float:
        """Wall seconds of one `work`, which queues something, of `times` in a row; in a graph where the driver can."""
        graph = self.driver.capture(lambda: work(self.driver))
        self.driver.synchronize()
        started = 0.0
        for turn in range(times + 1):  # the first one warms up
            if turn == 1:
                self.driver.synchronize()
                started = time.perf_counter()
            if graph is None:
                work(self.driver)
            else:
                self.driver.replay(graph)
        self.driver.synchronize()
        taken = time.perf_counter() - started
        if graph is not None:
            self.driver.discard(graph)
        return taken / times

    def use(self) -> DeviceUse:
        return self._meter.take()
