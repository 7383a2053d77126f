"""A sink that takes statistics in one call gets the same as one that takes them node by node."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.engine import CpuEngine
from aprtui.engine.protocol import KvType, Logits, Mode, Taps, TapSink, takes_sums
from aprtui.model.model import Model
from aprtui.trace.graph.stage import Node
from aprtui.trace.stats import Accumulator
from tests.engine.tiny_model import tiny_model


class OneByOne:
    def __init__(self) -> None:
        self.taken: dict[int, list[Accumulator]] = {}
        self.values: dict[Node, NDArray[np.float32]] = {}
        self.order: dict[Node, int] = {}

    def put(self, node: Node, position: int, values: NDArray[np.float32] | None, stats: Accumulator | None) -> None:
        if stats is not None:
            self.taken.setdefault(self.order[node], []).append(stats)
        if values is not None:
            self.values[node] = values.copy()


class Together(OneByOne):
    calls = 0

    def put_sums(self, places: NDArray[np.int64], sums: NDArray[np.void]) -> None:
        self.calls += 1
        for place, record in zip(places.tolist(), sums.tolist(), strict=True):
            self.taken.setdefault(place, []).append(Accumulator(*record))


def test_the_same_statistics_and_values_come_either_way() -> None:
    model = tiny_model()
    sinks = OneByOne(), Together()
    assert not takes_sums(sinks[0]) and takes_sums(sinks[1])
    for sink in sinks:
        engine = CpuEngine(cast(Model, model), Mode.Q8, KvType.F32, 1, 64)
        sink.order = dict(engine.graph.order)
        full = frozenset(node for node in engine.graph.nodes if node.stage == "ffn_out")
        tapped: TapSink = sink
        taps = Taps(tapped, full=full, stats=frozenset(engine.graph.nodes))
        engine.forward([5, 6, 7], taps, Logits.ALL)
        engine.forward([8], taps)
        engine.close()
    assert sinks[0].taken == sinks[1].taken
    assert len(sinks[0].taken) == len(sinks[0].order)
    assert sinks[1].calls < 2 * len(sinks[1].taken) / 3, "not a call a node"
    assert sinks[0].values.keys() == sinks[1].values.keys() == full
    for node, values in sinks[0].values.items():
        assert np.array_equal(values, sinks[1].values[node])
