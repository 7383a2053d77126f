"""The records of a model with experts: how they were chosen since the generation began."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from aprtui.engine.generation import generate
from aprtui.engine.process.loading import load_engine
from aprtui.engine.process.messages import EngineSettings
from aprtui.engine.process.records import Recorder
from aprtui.engine.process.slots import Slots
from aprtui.engine.protocol import KvType, Mode, Taps
from aprtui.trace.experts import ExpertCounts
from aprtui.trace.graph.stage import ROUTER, ROUTER_CHOICE, Node
from aprtui.trace.stats import Accumulator
from tests.model.gguf_files import write_model

PROMPT = [1, 5, 9, 200, 33]
EXPERTS = 8


class Routers:
    """A sink that counts for itself."""

    def __init__(self, layers: int) -> None:
        self.counts = ExpertCounts(layers, EXPERTS)

    def put(self, node: Node, position: int, values: np.ndarray | None, stats: Accumulator | None) -> None:
        assert values is not None and node.layer is not None
        add = self.counts.add_choices if node.stage == ROUTER_CHOICE else self.counts.add_routers
        add(np.full(len(values), node.layer), values)


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
@pytest.mark.parametrize("lens", [False, True])
@pytest.mark.parametrize("architecture", ["qwen3moe", "qwen35moe"])
def test_records_count_the_choices_of_all_passes_of_the_generation(
    tmp_path: Path, backend: str, lens: bool, architecture: str
) -> None:
    path = write_model(tmp_path / "model.gguf", architecture=architecture, experts=EXPERTS, experts_used=2)
    settings = EngineSettings(backend, Mode.EXACT, KvType.F32, threads=1, context=64)
    opened = load_engine(lambda *call: None, settings, path)
    graph, descriptor = opened.engine.graph, os.memfd_create("test")
    slots = Slots(descriptor, len(graph.nodes), graph.layers, create=True, experts=EXPERTS)
    recorder = Recorder(opened, slots, lambda event: None)
    try:
        for run in range(2):  # the second generation counts from zero
            opened.engine.reset()
            recorder.begin()
            generation = generate(opened.engine, opened.tokenizer, PROMPT, max_tokens=3)
            generation.taps = recorder.taps(lens)
            ids = []
            for index, token in enumerate(generation):
                recorder.write(run, index, token.choice, token.position, token.seconds, generation)
                ids.append(token.choice.id)
        record = slots.latest()
        assert record is not None and record.experts is not None and (record.lens is None) is not lens
        opened.engine.reset()
        sink = Routers(graph.layers)
        nodes = frozenset(node for node in graph.nodes if node.stage in (ROUTER, ROUTER_CHOICE))
        opened.engine.forward([*PROMPT, *ids[:-1]], Taps(sink, nodes))
        assert record.experts["counts"].tolist() == sink.counts.counts.tolist()
        assert (record.experts["counts"].sum(axis=1) == 2 * 7).all() and not record.experts["dropped"].any()
        assert record.experts["entropy"] == pytest.approx(sink.counts.entropy, rel=1e-4)
        assert (record.stats["count"] > 0).all(), "statistics of all nodes are there as well"
    finally:
        recorder.close()
        opened.engine.close()
        os.close(descriptor)
