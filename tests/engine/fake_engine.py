"""An engine without a model: logits and stage tensors are cheap functions of token and position, for tests above it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.process.loading import LoadedEngine
from aprtui.engine.process.messages import EngineDescription, EngineSettings
from aprtui.engine.protocol import NO_TAPS, KvType, Logits, Mode, Rounding, Taps
from aprtui.errors import EngineError
from aprtui.progress import Progress
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.trace.stats import accumulate, causal

CONFIG = GraphConfig(
    "qwen2", layers=3, hidden=8, heads=2, kv_heads=1, head_dim=4, ffn=16, vocabulary=128, qkv_bias=True
)  # fmt: skip


class FakeEngine:
    """Prefers token id + 1 after each token; `delay` seconds pass for each token.

    `poisoned` nodes hold one NaN, and the logits of call number `nan_logits_after` and later ones do too.
    """

    def __init__(
        self,
        context: int = 64,
        delay: float = 0.0,
        poisoned: frozenset[Node] = frozenset(),
        nan_logits_after: int = 1 << 30,
    ) -> None:
        self.graph = graph_for(CONFIG)
        self.mode, self.kv = Mode.EXACT, KvType.F32
        self.backend, self.code_path, self.device = "fake", "fake", "fake device"
        self.threads: int | None = None
        self.rounding = Rounding("none", "f32", "float64")
        self.context, self.delay, self.poisoned = context, delay, poisoned
        self.position = 0
        self.nan_logits_after = nan_logits_after
        self.calls: list[list[int]] = []
        self.closed = False

    def reset(self, position: int = 0) -> None:
        self.position = position

    def forward(self, tokens: Sequence[int], taps: Taps = NO_TAPS, logits: Logits = Logits.LAST) -> NDArray[np.float32]:
        if self.position + len(tokens) > self.context:
            raise EngineError(f"context of {self.context} positions is full")
        time.sleep(self.delay * len(tokens))
        self.calls.append(list(tokens))
        for node in self.graph.nodes:
            if taps.sink is not None and node in taps.full | taps.stats:
                values = self._values(node, len(tokens))
                counted = causal(values, self.position) if self.graph[node.stage].is_attention_map else values
                taps.sink.put(
                    node, self.position, values if node in taps.full else None,
                    accumulate(counted) if node in taps.stats else None,
                )  # fmt: skip
        self.position += len(tokens)
        rows = np.zeros((len(tokens), CONFIG.vocabulary), np.float32)
        rows[np.arange(len(tokens)), (np.asarray(tokens) + 1) % CONFIG.vocabulary] = 5.0
        if len(self.calls) > self.nan_logits_after:
            rows[-1, 3] = np.nan
        return rows if logits is Logits.ALL else rows[-1:]

    def close(self) -> None:
        self.closed = True

    def _values(self, node: Node, n: int) -> NDArray[np.float32]:
        stage = self.graph[node.stage]
        shape = (stage.width, n, self.position + n) if stage.is_attention_map else (n, stage.width)
        scale = (1 + self.graph.order[node]) * (1 + 0.1 * self.position)
        values = np.full(shape, scale, np.float32)
        if node in self.poisoned:
            values.reshape(-1)[0] = np.nan
        return values


class LetterTokenizer:
    """Token id = ASCII code; ids of 128 and more do not occur."""

    stop_ids = frozenset({ord("~")})

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])

    def is_special(self, token: int) -> bool:
        return token in self.stop_ids

    def encode(self, text: str) -> list[int]:
        return list(text.encode("ascii"))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("ascii")


def open_fake(progress: Progress, settings: EngineSettings, **options: Any) -> LoadedEngine:
    """Opener of a fake engine for an engine process; bind `options` of `FakeEngine` with `functools.partial`."""
    progress("compiling kernels", 1, 2)
    engine = FakeEngine(**options)
    info = EngineDescription(
        "fake", "F32", CONFIG, engine.backend, engine.code_path, engine.mode, engine.kv, engine.context, None
    )
    return LoadedEngine(engine, None, LetterTokenizer(), info, settings)  # type: ignore[arg-type]
