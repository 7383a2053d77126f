"""What a token and a prompt launch in a model of any size, planned without a device and without weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from aprtui.bench.random_data import SHAPES, Shape, _more_bits
from aprtui.engine.cuda.choosing import ChoiceRule, Choosing
from aprtui.engine.cuda.driver import Launch
from aprtui.engine.cuda.images import entry_points, kernel_files
from aprtui.engine.cuda.launches import Launches, splits_for
from aprtui.engine.cuda.lowering import Lowering, Pass
from aprtui.engine.cuda.plan import plan_for
from aprtui.engine.cuda.statistics import StatisticsTable
from aprtui.engine.cuda.storage import DeviceStorage, Weights
from aprtui.engine.protocol import NO_TAPS, KvType, Mode, Taps
from aprtui.model.config import ModelConfig, Rope
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from tests.engine.tiny_model import TinyModel, _shape

MULTIPROCESSORS = 132
"""Of an H200."""


@dataclass
class PlanningDriver:
    """A `Driver` that hands out addresses and does nothing."""

    multiprocessors: int = MULTIPROCESSORS
    memory: int = 141 << 30
    bus_id: str = "planned"
    _next: int = field(default=1 << 40)

    def allocate(self, size: int) -> int:
        address = self._next
        self._next += -(-size // 256) * 256
        return address

    def pinned(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        return np.empty(shape, dtype)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def planned_model(shape: Shape, *, context: int) -> TinyModel:
    """A Qwen2 model of `shape` in Q4_K_M without values: its data are no bytes that anybody could read."""
    config = GraphConfig(
        "qwen2", shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.hidden // shape.heads, shape.ffn,
        shape.vocabulary, qkv_bias=True,
    )  # fmt: skip
    graph = graph_for(config)
    bound: dict[Node, tuple[Weight, ...]] = {}
    for node in graph.nodes:
        stage = graph[node.stage]
        weights = []
        for param in stage.params:
            rows, columns = _shape(config, stage.op, param)
            kind = WeightType.F32
            if stage.op in (Op.MATMUL, Op.EMBED):
                finer = param == "output" or (
                    param in ("attn_v", "ffn_down") and _more_bits(node.layer or 0, shape.layers)
                )
                kind = WeightType.Q6_K if finer else WeightType.Q4_K
            row_bytes = columns // kind.format.block_values * kind.format.block_bytes
            data = np.broadcast_to(np.zeros(1, np.uint8), (rows, row_bytes))
            weights.append(Weight(f"{node} {param}", kind, rows, columns, data))
        if weights:
            bound[node] = tuple(weights)
    return TinyModel(ModelConfig(config, context, 1e-6, Rope(1e6)), graph, bound)


def prompt_launches(shape: str, tokens: int) -> list[Launch]:
    """The launches of a chunk of a prompt in `q8` that nobody taps, in order."""
    return prompt_launches_of_model(planned_model(SHAPES[shape], context=tokens), tokens)


def prompt_launches_of_model(model: TinyModel, tokens: int) -> list[Launch]:
    """The same of any model."""
    lowering, table, _ = _planned(model, context=tokens, mode=Mode.Q8)
    plan = plan_for(lowering, table, Pass(False, tokens, 0, 1, frozenset()), NO_TAPS)
    return [launch for segment in plan.segments for launch in segment.launches]


def token_launches(shape: str, *, context: int, mode: Mode = Mode.Q8, statistics: bool = False) -> list[Launch]:
    """The launches of one token that the device chooses, in order; with `statistics`, of all of its stages."""
    return launches_of_model(planned_model(SHAPES[shape], context=context), context, mode=mode, statistics=statistics)


def launches_of_model(
    model: TinyModel, context: int, *, mode: Mode = Mode.Q8, statistics: bool = False
) -> list[Launch]:  # fmt: skip
    """The same of any model."""
    lowering, table, launches = _planned(model, context=context, mode=mode)
    graph, storage = lowering.graph, lowering.storage
    nodes = frozenset(node for node in graph.nodes if statistics)
    if statistics:
        storage.reserve_token_maps(context)
    run = Pass(True, 1, context if statistics else 0, 1, nodes)
    plan = plan_for(lowering, table, run, Taps(None, stats=nodes))
    driver: Any = PlanningDriver()
    chosen = Choosing(driver, launches, storage, lowering.config.vocabulary).launches(ChoiceRule())
    return [*(launch for segment in plan.segments for launch in segment.launches), *chosen]


def _planned(planned: TinyModel, *, context: int, mode: Mode) -> tuple[Lowering, StatisticsTable, Launches]:
    model: Any = planned
    config = model.config.graph
    driver: Any = PlanningDriver()
    names = [name for file in kernel_files() for name in entry_points(file)]
    kernels = {name: number for number, name in enumerate(names)}
    launches = Launches(kernels, mode)
    splits = splits_for(driver.multiprocessors, config.heads, config.kv_heads, context)
    storage = DeviceStorage(driver, model, mode, KvType.F16, context, splits)
    addresses = {name: driver.allocate(weight.data.nbytes) for name, weight in model.weights.items()}
    lowering = Lowering(model, KvType.F16, mode, Weights(addresses, addresses), storage, launches, splits)
    return lowering, StatisticsTable(driver, launches, model.graph, storage.step), launches
