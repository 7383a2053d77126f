"""A recorded live source: events and token records that were made beforehand, given out poll by poll."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.generation import StopReason
from aprtui.engine.logit_noise import LogitNoise
from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.messages import (
    Captured,
    EngineDescription,
    EngineSettings,
    Event,
    Failed,
    Finished,
    Loaded,
    LoadingCancelled,
    NoiseMeasured,
    Paused,
    Reopening,
    Resumed,
    Started,
    StepProgress,
    TokenNames,
    TokenText,
)
from aprtui.engine.process.slots import CANDIDATES, RING, STATS, TokenRecord, candidates, experts_type
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import Candidate, Sampling
from aprtui.model.prompt import ChatPrompt
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for

PIECES = (
    "\n",
    "    if",
    " n",
    " <",
    " 2",
    ":",
    "\n",
    "        return",
    " n",
    "\n",
    "    return",
    " fib",
    "(",
    "n",
    " -",
    " 1",
    ")",
)


def example_info(layers: int = 4) -> EngineDescription:
    config = GraphConfig("qwen2", layers, 256, 4, 2, 64, 768, 2048, qkv_bias=True)
    kinds = dict.fromkeys(graph_for(config).nodes, ("scale", "noise", "nan", "zero-channel"))
    return EngineDescription(
        "example", "Q4_K_M", config, "cpu", "numba-avx2", Mode.Q8, KvType.F32, 1024, 0.7, fault_kinds=kinds
    )


def example_record(
    info: EngineDescription, index: int, bad: Node | None = None, prompt_tokens: int = 5, lens: bool = False
) -> TokenRecord:
    """A plausible record: rms grows with the layer, differs between stages, and wanders from token to token."""
    graph = graph_for(info.graph)
    random = np.random.default_rng(index)
    stats = np.zeros(len(graph.nodes), STATS)
    for place, node in enumerate(graph.nodes):
        stage = 0.02 * 3.0 ** (sum(map(ord, node.stage)) % 7)
        rms = stage * 1.4 ** (node.layer or 0) * np.exp(random.normal() / 6)
        stats[place] = (graph[node.stage].size(1), 0, 0, -3 * rms, 3.5 * rms, 3.5 * rms, 0.01 * rms, rms)
    if bad is not None:
        stats["nan"][graph.order[bad] :] = 1
    position = prompt_tokens + index
    seconds = 1e-5 * stats["count"] / stats["count"].max()
    seconds[[graph.nodes[place].stage in ("attn_softmax", "attention") for place in range(len(seconds))]] = np.nan
    probability = float(0.15 + 0.8 * random.random())
    rest = (1 - probability) / 2 ** np.arange(1, CANDIDATES)
    likeliest = [Candidate(100 + index, probability), *(Candidate(500 + n, float(p)) for n, p in enumerate(rest))]
    entropy = float(-np.log(probability) * 3)
    margin = float(np.log(probability / rest[0]))
    return TokenRecord(
        1, index, 100 + index, position, prompt_tokens if index == 0 else 1,
        float(np.log(probability)), 0.7, entropy, margin, 0.025, 0.048, 104.0, 0.0 if index == 0 else 41.2, stats,
        seconds.astype(np.float32), candidates(likeliest, CANDIDATES),
        candidates([Candidate(500 + layer % 3, 0.1 + 0.8 * layer / graph.layers) for layer in range(graph.layers)],
                   graph.layers) if lens else None,
        experts=example_experts(info.graph, position) if info.graph.experts else None,
    )  # fmt: skip


def example_experts(config: GraphConfig, positions: int) -> NDArray[np.void]:
    """Choices of `positions` tokens: in layer `n`, expert `n` is chosen by all, and the last one by none."""
    rows = np.zeros(config.layers, experts_type(config.experts))
    for layer, row in enumerate(rows):
        row["counts"][: config.experts - 1] = positions * (config.experts_used - 1)
        row["counts"][layer % (config.experts - 1)] = positions * (layer + 5)
        row["entropy"] = 1.5
    return rows


class RecordedSource:
    """Plays `pieces`, `per_poll` for each poll while running, with the records that belong to them."""

    def __init__(
        self,
        pieces: Sequence[str] = PIECES,
        layers: int = 4,
        bad: Node | None = None,
        crash_after: int | None = None,
        per_poll: int = 1,
        has_template: bool = False,
        experts: int = 0,
        recurrent: tuple[bool, ...] = (),
    ) -> None:
        self.recorded_info = replace(example_info(layers), has_template=has_template)
        if experts:
            graph = replace(self.recorded_info.graph, experts=experts, experts_used=2, expert_ffn=64)
            self.recorded_info = replace(self.recorded_info, graph=graph)
        if recurrent:
            graph = replace(
                self.recorded_info.graph, recurrent=recurrent, linear_key_heads=2, linear_value_heads=4,
                linear_head_dim=16, conv_kernel=4, gated_attention=True,
            )  # fmt: skip
            self.recorded_info = replace(self.recorded_info, graph=graph)
        self.recording = None
        self.info: EngineDescription | None = None
        self.state = EngineState.CLOSED
        self.written = 0
        self.loading_polls = 0
        self.calls: list[str] = []
        self.prompts: list[str | ChatPrompt] = []
        self.sampling: Sampling | None = None
        self._pieces = pieces
        self._bad = bad
        self._crash_after = crash_after
        self._per_poll = per_poll
        self._events: list[Event] = []
        self._run = 0
        self._firsts = [0]
        """Records that begin a generation."""
        self._lens = False
        self.settings = EngineSettings()
        self._steps = 0

    def start(self, settings: EngineSettings | None = None) -> None:
        self.settings = settings or self.settings
        self.state, self.info, self.written, self._firsts = EngineState.LOADING, None, 0, [0]
        self._events = [StepProgress("compiling kernels", 3, 14), Loaded(self.recorded_info)]

    def restart(self) -> None:
        self.calls.append("restart")
        self._crash_after = None
        self.start()

    def close(self) -> None:
        self.calls.append("close")

    def reopen(self, settings: EngineSettings) -> None:
        self.calls.append("reopen")
        if "nonsense" in " ".join(settings.faults):
            self._events.append(Failed("--inject: kind 'nonsense' is not known", fatal=False))
            return
        self.settings = settings
        self.recorded_info = replace(self.recorded_info, mode=settings.mode, faults=settings.faults)
        self._events += [Reopening(), Loaded(self.recorded_info)]

    def set_lens(self, on: bool) -> None:
        self._lens = on
        self.calls.append(f"lens {on}")

    def measure_noise(self) -> None:
        self.calls.append("noise")
        self._events += [StepProgress("measuring the noise at the logits", 4, 16), NoiseMeasured(LogitNoise(0.15, 8))]

    def write_capture(self, directory: Path) -> None:
        self.calls.append(f"capture {directory}")
        self._events += [StepProgress("writing the capture", 5, 10), Captured(directory, 7, 71, 1000)]

    def poll(self) -> list[Event]:
        if self.loading_polls:
            self.loading_polls -= 1
            return []
        events, self._events = self._events, []
        if any(isinstance(event, Loaded) for event in events):
            self.info, self.state = self.recorded_info, EngineState.READY
        for _ in range(self._per_poll):
            if self.state is EngineState.RUNNING or (self.state is EngineState.PAUSED and self._steps):
                self._steps = 0
                events += self._token()
        return events

    def _token(self) -> list[Event]:
        index = self.written - self._firsts[-1]
        if index == self._crash_after:
            self.state = EngineState.CRASHED
            return [Failed("the engine process was ended by signal 9 (SIGKILL)", fatal=True)]
        if index == len(self._pieces):
            self.state = EngineState.READY
            return [Finished(self._run, StopReason.STOP_TOKEN, "")]
        self.written += 1
        record = example_record(self.recorded_info, index)
        names = ((100 + index, self._pieces[index]), *((500 + rank, f" other{rank}") for rank in range(CANDIDATES)))
        return [
            TokenNames(names),
            TokenText(
                self._run, index, 100 + index, self._pieces[index], record.logprob, record.entropy, record.margin
            ),
        ]

    @property
    def first_kept(self) -> int:
        return max(self.written - RING, 0)

    def latest(self) -> TokenRecord | None:
        return self.record(self.written - 1)

    def record(self, number: int) -> TokenRecord | None:
        if not self.first_kept <= number < self.written:
            return None
        first = max(first for first in self._firsts if first <= number)
        return example_record(self.recorded_info, number - first, self._bad, lens=self._lens)

    def generate(self, prompt: str | ChatPrompt, sampling: Sampling, max_tokens: int) -> int:
        self.prompts.append(prompt)
        self.sampling = sampling
        self._firsts.append(self.written)
        self.state = EngineState.RUNNING
        self._run += 1
        if isinstance(prompt, ChatPrompt):
            self._events += self._rendered(prompt)
        else:
            self._events.append(Started(self._run, prompt, (1, 2, 3, 4, 5), self.written))
        return self._run

    def _rendered(self, prompt: ChatPrompt) -> list[Event]:
        """Each message between two special tokens, and a token of its own."""
        names = {1: "<|start|>", 2: "<|end|>"}
        ids, text = list(prompt.tokens), ""
        for number, message in enumerate(prompt.messages):
            text += f"<|start|>{message['role']}\n{message['content']}<|end|>"
            if not prompt.tokens or number == len(prompt.messages) - 1:
                names[1000 + number] = f"{message['role']}\n{message['content']}"
                ids += [1, 1000 + number, 2]
        named = TokenNames(tuple(names.items()), frozenset({1, 2}))
        kept = max(len(prompt.tokens) - 1, 0)
        return [named, Started(self._run, text, tuple(ids), self.written, kept)]

    def pause(self) -> None:
        if self.state is EngineState.RUNNING:
            self.state = EngineState.PAUSED
            self._events.append(Paused(self._run))

    def resume(self) -> None:
        self.state = EngineState.RUNNING
        self._events.append(Resumed(self._run))

    def set_pace(self, tokens_per_second: float | None) -> None:
        self.calls.append(f"pace {tokens_per_second}")

    def step(self) -> None:
        self._steps = 1

    def cancel(self) -> None:
        if self.state is EngineState.LOADING:
            self.state, self._events, self.loading_polls = EngineState.CLOSED, [LoadingCancelled()], 0
        if self.state in (EngineState.RUNNING, EngineState.PAUSED):
            self.state = EngineState.READY
            self._events.append(Finished(self._run, StopReason.CANCELLED, ""))
