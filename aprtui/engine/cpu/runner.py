"""What programs run on: storage, threads and the control record, and where the tensors of the current chunk lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.attention import scratch_bytes as attention_scratch_bytes
from aprtui.engine.cpu.compiling import compile_kernels
from aprtui.engine.cpu.experts import EXPERT_OUT_TOKENS, EXPERT_ROWS
from aprtui.engine.cpu.matmul import scratch_bytes as matmul_scratch_bytes
from aprtui.engine.cpu.operations import kernels_for
from aprtui.engine.cpu.plan import TapPlan
from aprtui.engine.cpu.program import CONTROL
from aprtui.engine.cpu.recurrence import delta_scratch_bytes
from aprtui.engine.cpu.storage import CpuStorage
from aprtui.engine.cpu.threads import ThreadTeam
from aprtui.engine.protocol import Mode
from aprtui.model.model import Model
from aprtui.progress import Progress, no_progress
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]
_MAP_BYTES = 64 << 20
"""Materialised attention maps take no more than this; long contexts get smaller chunks."""


class Runner:
    """Runs parts of a program on chunks of tokens, whose tensors lie in `storage`."""

    def __init__(
        self, model: Model, mode: Mode, storage: CpuStorage, threads: int, progress: Progress | None = None
    ) -> None:
        self.storage = storage
        self._graph, self._config = model.graph, model.config.graph
        self._maps = {stage.op: np.zeros(0, np.float32) for stage in model.graph.stages if stage.is_attention_map}
        self._capped = any(stage.op is Op.SOFTCAP for stage in model.graph.stages if stage.holds_logits)
        self._control = np.zeros(1, CONTROL)
        self._scratch = self._make_scratch(model, threads)
        self._tokens = self._position = 0
        self._logits = self._products = np.empty((0, self._config.vocabulary), np.float32)
        compile_kernels(kernels_for(model, mode), progress or no_progress)
        self._team = ThreadTeam(self._control, threads)

    def _make_scratch(self, model: Model, threads: int) -> NDArray[np.uint8]:
        config = self._config
        widest = max(weight.columns for weight in model.weights.values())
        matmul = _whole(matmul_scratch_bytes(widest), 64)
        widest_head, group = max(config.head_dim, config.value_dim), config.heads // config.kv_heads
        attention = attention_scratch_bytes(self.storage.context, widest_head, group)
        products = 4 * EXPERT_OUT_TOKENS * EXPERT_ROWS if config.experts or config.latent else 0
        each = _whole(max(matmul + max(attention, products), delta_scratch_bytes(config.linear_head_dim)), 4096)
        scratch = np.empty(each * threads + 64, np.uint8)
        self._control["scratch"] = _whole(scratch.ctypes.data, 64)
        self._control["scratch_bytes"] = each
        self._control["attention_scratch"] = matmul
        return scratch

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._team.close()

    def chunk(self, positions: int, *, maps: bool) -> int:
        """Tokens evaluated at a time where there will be `positions` in all; no result depends on it."""
        if not maps:
            return self.storage.chunk
        return max(1, min(self.storage.chunk, _MAP_BYTES // (4 * len(self._maps) * self._config.heads * positions)))

    def load(self, plan: TapPlan, ids: NDArray[np.int64], position: int, logits: Array, *, maps: bool) -> None:
        """Make the tokens `ids` at `position …` the current chunk; `logits` are the rows of the last that are wanted.

        `maps` says that attention maps are read or written and have to be materialised. The arrays must live until the
        last `run`.
        """
        control, tokens = self._control, ids.size
        self._tokens, self._position, self._logits = tokens, position, logits
        self.storage.fill_rope(position + tokens)
        control["program"] = plan.program.instructions.ctypes.data
        control["counters"] = plan.counters.ctypes.data
        control["durations"] = plan.durations.ctypes.data
        control["statistics"] = plan.table.ctypes.data
        # Logits are softcapped from one buffer to another, so that both can be tapped.
        self._products = np.empty_like(logits) if self._capped else logits
        control["logits"], control["capped_logits"] = self._products.ctypes.data, logits.ctypes.data
        control["ids"], control["tokens"], control["position"] = ids.ctypes.data, tokens, position
        control["wanted"] = tokens - logits.shape[0]
        if maps:
            self._materialise_maps(tokens, position)

    def _materialise_maps(self, tokens: int, position: int) -> None:
        size = self._config.heads * tokens * (position + tokens)
        for op in self._maps:
            if self._maps[op].size < size:
                self._maps[op] = np.zeros(max(size, self._config.heads * self.storage.context), np.float32)
        for op, values in self._maps.items():
            self._control[str(op)] = values.ctypes.data

    def run(self, begin: int, end: int) -> None:
        """Execute the instructions `begin … end - 1` on the current chunk."""
        if begin < end:
            self._control["begin"], self._control["end"] = begin, end
            self._team.run()

    def tensor(self, node: Node) -> Array:
        """The stage tensor of the current chunk, where the program reads and leaves it.

        Of logits, the wanted rows; of a state, that after the last token.
        """
        stage = self._graph[node.stage]
        if stage.holds_logits:
            return self._products if stage.op is Op.MATMUL else self._logits
        if not stage.is_attention_map:
            return self.storage.stages[stage.name][: 1 if stage.holds_state else self._tokens]
        shape = (stage.width, self._tokens, self._position + self._tokens)
        return self._maps[stage.op][: np.prod(shape)].reshape(shape)

    def inputs(self, node: Node) -> list[Array]:
        """Where the inputs of `node` lie, cut to the part that it uses; keys and values of the current chunk only."""
        stage, found = self._graph[node.stage], []
        first = self._tokens - self._logits.shape[0] if stage.holds_logits else 0
        for entry, source in zip(self._graph.entries(node), self._graph.inputs(node), strict=True):
            tensor = self.tensor(source)
            whole = tensor.ndim == 3 or self._graph[source.stage].holds_logits
            found.append(tensor if whole else tensor[first:, self._config.part(entry.part)])
        return found


def _whole(size: int, unit: int) -> int:
    """`size` rounded up to a multiple of `unit`."""
    return -(-size // unit) * unit
