"""One node at a time on the kernels of the engine: the control of a replay has to give the very bits of the capture.

The program is the engine's, cut at every node; a node is evaluated by laying its inputs where the program reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.lowering import lower
from aprtui.engine.cpu.plan import plan_for
from aprtui.engine.cpu.runner import Runner
from aprtui.engine.cpu.storage import CpuStorage
from aprtui.engine.protocol import NO_TAPS, KvType, Mode, require_known
from aprtui.engine.reference.history import ATTENTION_HISTORY
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.graph.ops import RECURRENT_OPS, Op
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]

_POSITIONS = 4096
"""Room at the beginning; a longer capture makes it grow. Memory that is not used is not resident."""


class CpuNodes:
    """`NodeEvaluator` with the bits of `CpuEngine` in `exact` mode with float32 K/V. Not thread-safe.

    Beyond inputs and output it takes the memory of the engine's stage buffers, of the K/V cache of one layer, and of
    two attention maps of one chunk (64 MB in all, or one row of queries where that is more).
    """

    def __init__(
        self, model: Model, threads: int, *, rope_angles: RopeAngles = RopeAngles.F64, progress: Progress | None = None
    ) -> None:
        self._model, self._graph, self._config = model, model.graph, model.config.graph
        self._threads, self._rope_angles = threads, rope_angles
        self._open(_POSITIONS, progress)

    def _open(self, context: int, progress: Progress | None = None) -> None:
        storage = CpuStorage(self._model, Mode.EXACT, KvType.F32, context, self._rope_angles, cached_layers=1)
        cuts = frozenset(self._graph.nodes)
        program = lower(self._model, Mode.EXACT, KvType.F32, storage, cuts=cuts)
        self._plan = plan_for(program, self._graph, NO_TAPS)
        starts = [0, *program.cuts.values()]
        self._spans = dict(zip(program.cuts, zip(starts, program.cuts.values(), strict=False), strict=True))
        self._runner = Runner(self._model, Mode.EXACT, storage, self._threads, progress)

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._runner.close()

    def evaluate(self, node: Node, inputs: Sequence[Array], *, tokens: Sequence[int], position: int) -> Array:
        """The stage tensor of `node`; see `NodeEvaluator.evaluate`.

        Attention looks at key ≤ query only: values of the maps above the diagonal have no effect. Raises `UsageError`
        for token ids that are not in the vocabulary, `ValueError` for a position before the first: what is cached there
        would be written in front of the cache.
        """
        if position < 0:
            raise ValueError(f"position {position}, expected 0 or more")
        stage = self._graph[node.stage]
        if stage.op in RECURRENT_OPS:
            return self._evaluate_recurrent(node, inputs, len(tokens), position)
        rows = inputs[0].shape[-2] if inputs else len(tokens)
        total = position + rows
        ids = np.asarray(tokens, np.int64) if stage.op is Op.EMBED else np.zeros(rows, np.int64)
        require_known(ids, self._config.vocabulary)
        self._make_room(total)
        # Attention maps are zero above the diagonal, where the chunks below leave them.
        shape = (stage.width, rows, total) if stage.is_attention_map else (rows, stage.width)
        out = np.zeros(shape, np.float32) if stage.is_attention_map else np.empty(shape, np.float32)
        if position and (stage.op, 1) in ATTENTION_HISTORY:
            assert node.layer is not None
            self._runner.storage.fill_cache(stage.op, node.layer, inputs[1][:position])
        chunk = self._runner.chunk(total, maps=self._touches_maps(node))
        for begin in range(0, rows, chunk):
            self._chunk(node, inputs, ids[begin : begin + chunk], position, begin, out)
        return out

    def _evaluate_recurrent(self, node: Node, inputs: Sequence[Array], rows: int, position: int) -> Array:
        """The last `rows` rows, through all positions from 0: what comes of a token depends on those before it."""
        stage = self._graph[node.stage]
        if stage.op is Op.DELTA_OUTPUT and rows == 1:
            position = 0  # the state says it all
        total = position + rows
        self._make_room(total)
        storage = self._runner.storage
        storage.recurrent.clear()
        out = np.empty((rows, stage.width), np.float32)
        ends = {*range(storage.chunk, total, storage.chunk), total}
        if stage.holds_state:
            ends |= {*range(position + 1, total)}
        begin = 0
        for end in sorted(ends):
            self._go_on(node, inputs, begin, end, total)
            found = self._runner.tensor(node)
            held = min(len(found), end - position)
            if held > 0:
                out[end - position - held : end - position] = found[len(found) - held :]
            begin = end
        return out

    def _go_on(self, node: Node, inputs: Sequence[Array], begin: int, end: int, total: int) -> None:
        """Evaluate the positions `begin … end - 1` of a recurrent node after those before them."""
        runner, none = self._runner, np.empty((0, self._config.vocabulary), np.float32)
        runner.load(self._plan, np.zeros(end - begin, np.int64), begin, none, maps=False)
        sources = self._graph.inputs(node)
        for values, place, source in zip(inputs, runner.inputs(node), sources, strict=True):
            if self._graph[source.stage].holds_state:
                continue
            # An input of the last positions only has no rows for those before, whose results are not asked for.
            missing = min(max(0, total - len(values) - begin), end - begin)
            place[:missing] = 0
            first = begin + missing - (total - len(values))
            place[missing:] = values[first : first + end - begin - missing]
        if self._graph[node.stage].op is Op.DELTA_OUTPUT:
            state = sources[0]
            if end == total and len(inputs[0]):
                runner.tensor(state)[...] = inputs[0][-1:]
            else:
                runner.run(*self._spans[state])
        runner.run(*self._spans[node])
        if self._graph[node.stage].holds_state:  # which goes on with the output only
            assert node.layer is not None
            runner.storage.recurrent.put_state(node.layer, runner.tensor(node)[0])

    def _touches_maps(self, node: Node) -> bool:
        return any(self._graph[found.stage].is_attention_map for found in (node, *self._graph.inputs(node)))

    def _make_room(self, positions: int) -> None:
        room = self._runner.storage.context
        if positions > room:
            self.close()
            self._open(max(positions, 2 * room))

    def _chunk(
        self, node: Node, inputs: Sequence[Array], ids: NDArray[np.int64], position: int, begin: int, out: Array
    ) -> None:
        """Evaluate the rows `begin …` of `out`, as many as there are `ids`."""
        stage, runner, end = self._graph[node.stage], self._runner, begin + ids.size
        logits = out[begin:end] if stage.holds_logits else np.empty((0, self._config.vocabulary), np.float32)
        runner.load(self._plan, ids, position + begin, logits, maps=self._touches_maps(node))
        for index, (values, place) in enumerate(zip(inputs, runner.inputs(node), strict=True)):
            # Keys and values come with all positions; those before the chunk are in the cache already.
            shift = position if (stage.op, index) in ATTENTION_HISTORY else 0
            rows = values[..., shift + begin : shift + end, :]
            place[...] = rows[..., : position + end] if rows.ndim == 3 else rows
        runner.run(*self._spans[node])
        if stage.is_attention_map:
            out[:, begin:end, : position + end] = runner.tensor(node)
        elif runner.tensor(node) is not logits:
            out[begin:end] = runner.tensor(node)
