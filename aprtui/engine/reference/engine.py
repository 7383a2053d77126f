"""The stage graph evaluated node by node in numpy. Slow, and plain enough to be believed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.kv_types import round_kv
from aprtui.engine.protocol import NO_TAPS, Intervention, KvType, Logits, Mode, NodeCall, Taps, require_positions
from aprtui.engine.reference.evaluate import evaluate
from aprtui.engine.reference.history import ATTENTION_HISTORY, HISTORY
from aprtui.engine.rounding import ARITHMETIC
from aprtui.machine import processor_name
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
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
        self._changed: dict[int | None, tuple[int, Array]] = {}
        """States that an intervention returned, by layer, each with the position from which it is the initial one."""
        self._seconds = np.full(len(self.graph.nodes), np.nan, np.float32)

    def reset(self, position: int = 0) -> None:
        self.position = position
        self._history = {key: stored[:position] for key, stored in self._history.items()} if position else {}
        self._changed = {layer: found for layer, found in self._changed.items() if found[0] <= position}

    def forward(self, tokens: Sequence[int], taps: Taps = NO_TAPS, logits: Logits = Logits.LAST) -> Array:
        require_positions(self, len(tokens))
        tensors: dict[Node, Array] = {}
        history, changed = dict(self._history), dict(self._changed)
        with np.errstate(invalid="ignore", over="ignore"):
            for place, node in enumerate(self.graph.nodes):
                started = time.perf_counter()
                inputs = self._inputs(node, tensors, history, logits)
                # A state is that of the last position only.
                first = len(tokens) - 1 if self.graph[node.stage].holds_state else 0
                wanted, position = tokens[first:], self.position + first
                tensor = self._evaluated(node, inputs, wanted, position)
                if self._intervention is not None and node in self._intervention.nodes:
                    tensor = self._intervention(NodeCall(node, tuple(inputs), tensor, wanted, position))
                    if self.graph[node.stage].holds_state:
                        changed[node.layer] = position + 1, tensor
                tensors[node] = tensor
                self._seconds[place] = time.perf_counter() - started
                self._tap(node, tensors[node], len(tokens), taps)
        self._history, self._changed = history, changed
        self.position += len(tokens)
        return tensors[self.graph.nodes[-1]]

    def _evaluated(self, node: Node, inputs: list[Array], tokens: Sequence[int], position: int) -> Array:
        op, initial = self.graph[node.stage].op, None
        if node.layer in self._changed and op in (Op.DELTA_STATE, Op.DELTA_OUTPUT):
            begin, initial = self._changed[node.layer]
            inputs = [rows[begin:] if (op, index) in HISTORY else rows for index, rows in enumerate(inputs)]
        return evaluate(
            self._model, node, inputs, tokens=tokens, position=position, arithmetic=self._arithmetic, initial=initial
        )

    def stage_seconds(self) -> NDArray[np.float32]:
        return self._seconds.copy()

    def _inputs(
        self, node: Node, tensors: dict[Node, Array], history: dict[tuple[Node, int], Array], logits: Logits
    ) -> list[Array]:
        stage = self.graph[node.stage]
        found = []
        sources = zip(self.graph.entries(node), self.graph.inputs(node), strict=True)
        for index, (entry, source) in enumerate(sources):
            config = self.graph.config
            assert config is not None
            tensor = tensors[source][:, config.part(entry.part)] if stage.op is not Op.SOFTMAX else tensors[source]
            if (stage.op, index) in HISTORY:
                is_cached = (stage.op, index) in ATTENTION_HISTORY
                tensor = self._with_history((node, index), tensor, history, rounded=is_cached)
            found.append(tensor)
        if stage.holds_logits and logits is Logits.LAST:
            found = [tensor[-1:] for tensor in found]
        return found

    def _with_history(
        self, key: tuple[Node, int], tensor: Array, history: dict[tuple[Node, int], Array], *, rounded: bool
    ) -> Array:
        """`tensor` with the rows of earlier positions before it; `rounded` to what the K/V cache holds."""
        stored = round_kv(self.kv, tensor) if rounded else tensor
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
