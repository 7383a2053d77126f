"""The stage graph evaluated node by node in numpy. Slow, and plain enough to be believed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.kv_types import round_kv
from aprtui.engine.protocol import NO_TAPS, Intervention, KvType, Logits, Mode, NodeCall, Taps, require_positions
from aprtui.engine.reference.evaluate import evaluate
from aprtui.engine.reference.ops import ATTENTION_HISTORY
from aprtui.engine.rounding import ARITHMETIC
from aprtui.machine import processor_name
from aprtui.model.model import Model
from aprtui.trace.graph import Node, Op
from aprtui.trace.stats import accumulate, causal

Array = NDArray[np.float32]


class NumpyEngine:
    """`Engine` on numpy. Dequantises each matrix when it is used, so memory stays at the file's size."""

    backend = "numpy"
    code_path = "numpy"
    threads: int | None = None

    def __init__(
        self, model: Model, mode: Mode, kv: KvType, context: int, intervention: Intervention | None = None
    ) -> None:
        self.graph = model.graph
        self.mode = mode
        self.device = processor_name()
        self.kv = kv
        self.context = context
        self._arithmetic = ARITHMETIC[mode]
        self.rounding = self._arithmetic.stated(model, kv)
        self._model = model
        self._intervention = intervention
        self.position = 0
        """Positions evaluated since the last reset."""
        self._history: dict[tuple[Node, int], Array] = {}
        self._seconds = np.full(len(self.graph.nodes), np.nan, np.float32)

    def reset(self, position: int = 0) -> None:
        self.position = position
        self._history = {key: stored[:position] for key, stored in self._history.items()} if position else {}

    def forward(self, tokens: Sequence[int], taps: Taps = NO_TAPS, logits: Logits = Logits.LAST) -> Array:
        require_positions(self, len(tokens))
        tensors: dict[Node, Array] = {}
        history = dict(self._history)
        with np.errstate(invalid="ignore", over="ignore"):
            for place, node in enumerate(self.graph.nodes):
                started = time.perf_counter()
                inputs = self._inputs(node, tensors, history, logits)
                tensor = evaluate(
                    self._model, node, inputs,
                    tokens=tokens, position=self.position, arithmetic=self._arithmetic,
                )  # fmt: skip
                if self._intervention is not None and node in self._intervention.nodes:
                    tensor = self._intervention(NodeCall(node, tuple(inputs), tensor, tokens, self.position))
                tensors[node] = tensor
                self._seconds[place] = time.perf_counter() - started
                self._tap(node, tensors[node], len(tokens), taps)
        self._history = history
        self.position += len(tokens)
        return tensors[self.graph.nodes[-1]]

    def stage_seconds(self) -> NDArray[np.float32]:
        return self._seconds.copy()

    def _inputs(
        self, node: Node, tensors: dict[Node, Array], history: dict[tuple[Node, int], Array], logits: Logits
    ) -> list[Array]:
        stage = self.graph[node.stage]
        found = []
        for index, (entry, source) in enumerate(zip(stage.inputs, self.graph.inputs(node), strict=True)):
            config = self.graph.config
            assert config is not None
            tensor = tensors[source][:, config.part(entry.part)] if stage.op is not Op.SOFTMAX else tensors[source]
            if (stage.op, index) in ATTENTION_HISTORY:
                tensor = self._with_history((node, index), tensor, history)
            found.append(tensor)
        if stage.holds_logits and logits is Logits.LAST:
            found = [tensor[-1:] for tensor in found]
        return found

    def _with_history(self, key: tuple[Node, int], tensor: Array, history: dict[tuple[Node, int], Array]) -> Array:
        stored = round_kv(self.kv, tensor)
        before = history.get(key)
        history[key] = stored if before is None else np.concatenate([before, stored])
        return history[key]

    def _tap(self, node: Node, tensor: Array, count: int, taps: Taps) -> None:
        if taps.sink is None or not (node in taps.full or node in taps.stats):
            return
        stage = self.graph[node.stage]
        position = self.position + count - (count if stage.is_attention_map else tensor.shape[0])
        values = tensor if node in taps.full else None
        counted = causal(tensor, position) if stage.is_attention_map else tensor
        taps.sink.put(node, position, values, accumulate(counted))

    def close(self) -> None:
        """Nothing to release."""
