"""The CUDA backend: a model on a device behind the `Engine` protocol, and how it is opened."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cuda import detect
from aprtui.engine.cuda.choosing import MOST_CANDIDATES, RING, ChoiceRule
from aprtui.engine.cuda.device import Device, FinishedSegment
from aprtui.engine.cuda.device_thread import DeviceThread
from aprtui.engine.cuda.images import KernelImages, kernel_images
from aprtui.engine.cuda.sizes import LOGIT_ROWS, fitting_context, memory_need, require_fits, require_supported
from aprtui.engine.protocol import (
    NO_TAPS,
    DeviceUse,
    KvType,
    Logits,
    Mode,
    Taps,
    TapSink,
    require_known,
    require_positions,
    takes_sums,
)
from aprtui.engine.rounding import DEVICE_ARITHMETIC
from aprtui.engine.sampling import Choice, Sampler, Sampling
from aprtui.errors import EngineError
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node
from aprtui.trace.stats import Accumulator

Array = NDArray[np.float32]
T = TypeVar("T")

_BATCH = RING // 2
"""Passes that are queued together. Two batches are, so that up to as many as the ring holds may be for nothing."""

_FEW = 8
"""Tokens of a prompt that one walk over a matrix serves, without tensor cores. Where these win was not measured.

Of an expert, whose tokens are multiplied one by one otherwise, they should win from 6 to 10 tokens on."""


class CudaEngine:
    """`Engine` on a GPU. One thread owns the device; results are handed out on the caller's."""

    backend = "cuda"
    threads: int | None = None

    def __init__(
        self, model: Model, mode: Mode, kv: KvType, *, device: str, code_path: str, thread: DeviceThread,
        opened: Callable[[], Device],
    ) -> None:  # fmt: skip
        """`opened` makes the `Device` on `thread`; the thread ends with the engine, or when opening fails."""
        self.graph = model.graph
        self.mode, self.kv, self.device = mode, kv, device
        self.rounding = DEVICE_ARITHMETIC[mode].stated(model, kv)
        graph = model.config.graph
        self._vocabulary, self._experts, self._used = graph.vocabulary, graph.experts, graph.experts_used
        self.position = 0
        """Positions evaluated since the last reset."""
        self._epoch = 0
        """Number of the call that set the device's position last: older iterators of choices end."""
        self._thread = thread
        made: list[Device] = []
        try:
            thread.run(lambda: made.append(opened()))
        except BaseException:
            # An interrupt leaves the thread at work: a device that it has opened by then must be closed there.
            thread.cancelled.set()
            thread.run(_close_all, made)
            thread.close()
            raise
        (self._on_device,) = made
        self.context = self._on_device.storage.context
        # A process that ends with a context in use is aborted by PyCUDA: this runs at its end at the latest.
        self._closing = weakref.finalize(self, _close, thread, self._on_device)
        self._kernels = code_path

    @property
    def code_path(self) -> str:
        """The device's architecture, the kernels' digest, and how passes of one token were launched so far."""
        return f"{self._kernels}, {' and '.join(sorted(self._on_device.launched))}"

    def reset(self, position: int = 0) -> None:
        self.position = position
        self._epoch += 1

    def close(self) -> None:
        """Free the device's memory and end the thread; a second call does nothing."""
        self._closing()

    def forward(self, tokens: Sequence[int], taps: Taps = NO_TAPS, logits: Logits = Logits.LAST) -> Array:
        require_positions(self, len(tokens))
        ids = np.asarray(tokens, np.int64)
        require_known(ids, self._vocabulary)
        self._epoch += 1
        out = np.empty((ids.size if logits is Logits.ALL else 1, self._vocabulary), np.float32)
        if ids.size == 1:
            finished = self._thread.run(self._on_device.decode, int(ids[0]), self.position, taps)
            self._deliver(finished, taps.sink, self.position, 1, 1)
            out[:] = self._on_device.logits[:1]
        else:
            self._prefill(ids.tolist(), taps, logits, out)
        self.position += ids.size
        return out

    def can_choose(self, sampling: Sampling) -> bool:
        """See `ChoosingEngine`: the repeat penalty, and what would sort the vocabulary, are the host's."""
        if sampling.repeat_penalty != 1:
            return False
        return sampling.temperature == 0 or (sampling.top_k == 0 and sampling.top_p == 1)

    def choose(self, token: int, sampler: Sampler, taps: Taps = NO_TAPS) -> Iterator[Choice]:
        """See `ChoosingEngine`. Without taps, two batches of passes are queued while the one before them is read."""
        require_known(np.asarray([token], np.int64), self._vocabulary)
        self._epoch += 1
        epoch, candidates = self._epoch, min(sampler.candidates, MOST_CANDIDATES, self._vocabulary)
        rule = ChoiceRule(candidates, sampler.sampling.temperature, sampler.sampling.min_p)
        self._thread.run(self._on_device.begin_choosing, token, self.position)
        choices = self._batches(rule, sampler) if taps.sink is None else self._tapped(taps, rule, sampler)
        for choice in choices:
            sampler.chosen_elsewhere()
            yield choice
            if epoch != self._epoch:
                return

    def _batches(self, rule: ChoiceRule, sampler: Sampler) -> Iterator[Choice]:
        """Two batches are always queued: while the host reads one, the device works at the next, and never waits."""
        room = self.context - self.position
        batches = [min(_BATCH, room - begin) for begin in range(0, room, _BATCH)]
        for turn, batch in enumerate(batches[:2]):
            uniforms = sampler.uniforms(turn * _BATCH, batch)
            self._thread.run(self._on_device.queue_choices, turn, batch, rule, uniforms)
        ordinal = 0
        for turn, batch in enumerate(batches):
            more = batches[turn + 2] if turn + 2 < len(batches) else 0
            uniforms = sampler.uniforms(2 * _BATCH, more)
            found = self._thread.run(self._on_device.choices, turn, more, rule, uniforms)
            for _ in range(batch):
                self.position += 1
                yield found[ordinal]
                ordinal += 1

    def _tapped(self, taps: Taps, rule: ChoiceRule, sampler: Sampler) -> Iterator[Choice]:
        """One pass is always queued ahead: the device works at it while this one's stages are handed out."""
        room = self.context - self.position

        def queue(turn: int) -> FinishedSegment:
            position = first + turn
            uniforms = sampler.uniforms(position - self.position, 1)
            return self._thread.run(self._on_device.queue_tapped, turn, position, taps, rule, uniforms)

        first = self.position
        following = queue(0) if room else None
        for ordinal in range(room):
            stages, following = following, queue(ordinal + 1) if ordinal + 1 < room else None
            assert stages is not None
            found = self._thread.run(self._on_device.tapped, ordinal, rule)
            self._deliver(stages, taps.sink, self.position, 1, 1)
            self.position += 1
            yield found[ordinal]

    def _prefill(self, ids: list[int], taps: Taps, logits: Logits, out: Array) -> None:
        chunk, few = self._chunk(self.position + len(ids), taps, logits), len(ids) <= _FEW
        few_of_expert = len(ids) * self._used <= _FEW * self._experts
        for begin in range(0, len(ids), chunk):
            part = ids[begin : begin + chunk]
            is_last = begin + len(part) == len(ids)
            wanted = len(part) if logits is Logits.ALL else int(is_last)
            position = self.position + begin
            passes = self._thread.run(
                self._on_device.prefill, part, position, wanted, taps, few=few, few_of_expert=few_of_expert
            )
            while (finished := self._thread.run(next, passes, None)) is not None:
                self._deliver(finished, taps.sink, position, len(part), wanted)
            if wanted:
                row = begin if logits is Logits.ALL else 0
                out[row : row + wanted] = self._on_device.logits[:wanted]

    def device_use(self) -> DeviceUse:
        return self._thread.run(self._on_device.use)

    def on_device(self, function: Callable[[Device], T]) -> T:
        """The result of `function` for the device, on its thread: benchmarks measure single kernels so."""
        self._epoch += 1
        return self._thread.run(function, self._on_device)

    def _chunk(self, positions: int, taps: Taps, logits: Logits) -> int:
        """Tokens evaluated at a time where there will be `positions` in all; no result depends on it."""
        storage = self._on_device.storage
        has_maps = any(self.graph[node.stage].is_attention_map for node in taps.full | taps.stats)
        chunk = storage.tokens_with_maps(positions) if has_maps else storage.chunk
        return min(chunk, LOGIT_ROWS) if logits is Logits.ALL else chunk

    def _deliver(
        self, finished: FinishedSegment, sink: TapSink | None, position: int, tokens: int, wanted: int
    ) -> None:
        """Hand out the tapped stages of a segment, in execution order."""
        segment, sums = finished.segment, finished.sums
        if sink is None or not segment.nodes:
            return
        values = {tensor.node: tensor.view(finished.staging) for tensor in segment.tensors}
        if takes_sums(sink):
            for count in segment.counts:
                sink.put_sums(count.places, count.merged(sums))
            counted: dict[Node, Accumulator] = {}
        else:
            counted = {node: found for count in segment.counts for node, found in count.accumulators(sums).items()}
        for node in segment.nodes:
            if node not in values and node not in counted:
                continue  # its statistics went with those of others
            stage, full = self.graph[node.stage], values.get(node)
            if full is not None and stage.is_attention_map:
                full = np.ascontiguousarray(full[..., : position + tokens])
            first = position + tokens - wanted if stage.holds_logits else position
            sink.put(node, first, full, counted.get(node))


def _close_all(devices: list[Device]) -> None:
    for device in devices:
        device.close()


def _close(thread: DeviceThread, device: Device) -> None:
    thread.run(device.close)
    thread.close()


def open_cuda(model: Model, mode: Mode, kv: KvType, context: int, progress: Progress, *, fit: bool) -> CudaEngine:
    """`model` on the first device that can run it; with `fit`, with as many positions up to `context` as fit.

    Raises `EngineError` where no device can, or the model does not fit.
    """
    found = detect.detect()
    device = found.require()
    require_supported(model)
    assert found.driver is not None
    images = kernel_images(device.capability, found.driver, progress)
    thread = DeviceThread()

    def report(what: str, done: int, total: int) -> None:
        if thread.cancelled.is_set():
            raise EngineError("opening the engine was interrupted")
        progress(what, done, total)

    return CudaEngine(
        model, mode, kv,
        device=str(device), code_path=f"sm_{device.capability[0]}{device.capability[1]}, kernels {images.digest}",
        thread=thread, opened=lambda: _opened(model, mode, kv, context, device.ordinal, images, report, fit=fit),
    )  # fmt: skip


def _opened(
    model: Model, mode: Mode, kv: KvType, context: int, ordinal: int, images: KernelImages, progress: Progress,
    *, fit: bool,
) -> Device:  # fmt: skip
    from aprtui.engine.cuda.pycuda_driver import PyCudaDriver

    driver = PyCudaDriver(ordinal)
    try:
        free = driver.free_memory()
        if fit:
            context = fitting_context(model, mode, kv, context, free) or context
        require_fits(model, mode, kv, context, free)
        need = memory_need(model, mode, kv, context)

        def loading(what: str, done: int, total: int) -> None:
            progress(f"{what}, needs {need}", done, total)

        return Device(driver, images, model, mode, kv, context, loading)
    except BaseException:
        driver.close()
        raise
