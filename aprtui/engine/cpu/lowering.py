"""From the stage graph to a program: one instruction a node, in the graph's order, dispatched on the node's op."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.matmul import activation_bytes, activation_kind
from aprtui.engine.cpu.operations import operation_address
from aprtui.engine.cpu.program import DESCRIPTOR, INSTRUCTION, Opcode, Where
from aprtui.engine.cpu.storage import Storage, is_logits
from aprtui.engine.protocol import KvType, Mode
from aprtui.trace.graph import Input, Node, Op, RopeLayout

if TYPE_CHECKING:
    from aprtui.model.model import Model


@dataclass(frozen=True, slots=True)
class Program:
    """Instructions, and where each layer's end: `ends[layer]`, with None for the stages of the model.

    `descriptors` are what the statistics instructions point at; they live as long as the program.
    """

    instructions: NDArray[np.void]
    ends: Mapping[int | None, int]
    descriptors: NDArray[np.void]


def lower(
    model: Model, mode: Mode, kv: KvType, storage: Storage, stats: frozenset[Node], mapped: frozenset[int | None]
) -> Program:
    """The program for `model`, with statistics of the nodes `stats` and attention maps of the layers `mapped`.

    Neither changes any other instruction, and so no result.
    """
    builder = _Lowering(model, mode, kv, storage, stats, mapped)
    return builder.lower()


class _Lowering:
    def __init__(
        self, model: Model, mode: Mode, kv: KvType, storage: Storage, stats: frozenset[Node],
        mapped: frozenset[int | None],
    ) -> None:  # fmt: skip
        assert model.graph.config is not None
        self.model, self.graph, self.config = model, model.graph, model.graph.config
        self.mode, self.storage, self.mapped = mode, storage, mapped
        self.half = int(kv is KvType.F16)
        self.instructions: list[dict[str, Any]] = []
        self.open_rows: dict[str, Any] | None = None
        self.quantized: dict[int, Node] = {}
        nodes = [node for node in self.graph.nodes if node in stats]
        self.tapped = {layer: [node for node in nodes if node.layer == layer] for layer in {n.layer for n in nodes}}
        self.descriptors = np.zeros(len(nodes), DESCRIPTOR)
        self.described = 0
        self.emitters: Mapping[Op, Callable[[Node], None]] = {
            Op.EMBED: self._embed,
            Op.RMS_NORM: self._norm,
            Op.HEAD_RMS_NORM: self._norm,
            Op.MATMUL: self._matmul,
            Op.BIAS: self._bias,
            Op.ROPE: self._rope,
            Op.SCORES: self._scores,
            Op.SOFTMAX: self._nothing,  # part of the attention instruction
            Op.ATTEND: self._attend,
            Op.ADD: self._two_operands(Opcode.ADD),
            Op.SILU: self._silu,
            Op.MULTIPLY: self._two_operands(Opcode.MULTIPLY),
        }

    def lower(self) -> Program:
        ends: dict[int | None, int] = {}
        for layer in [*range(self.graph.layers), None]:
            self.open_rows = None
            for node in self.graph.nodes:
                if node.layer == layer:
                    self.emitters[self.graph[node.stage].op](node)
            self._statistics(layer)
            ends[layer] = len(self.instructions)
        table = np.zeros(len(self.instructions), INSTRUCTION)
        for row, fields in zip(table, self.instructions, strict=True):
            if fields["opcode"] is not Opcode.ROWS:
                row["function"] = operation_address(fields["opcode"])
            for name, value in fields.items():
                row[name] = value
        return Program(table, ends, self.descriptors)

    def _phase(self, opcode: Opcode, **fields: Any) -> dict[str, Any]:
        """An instruction whose pieces the threads share out. Matmuls in a row are independent: their inputs are
        quantised before the first of them."""
        follows_matmul = bool(self.instructions) and self.instructions[-1]["opcode"] == Opcode.MATMUL
        barrier = int(not (opcode is Opcode.MATMUL and follows_matmul))
        self.open_rows = None
        self.instructions.append({"opcode": opcode, "barrier": barrier, **fields})
        return self.instructions[-1]

    def _row(self, opcode: Opcode, **fields: Any) -> None:
        """An instruction on single tokens; neighbours share one `ROWS`."""
        if self.open_rows is None:
            self.open_rows = self._phase(Opcode.ROWS, count=0)
        self.open_rows["count"] += 1
        self.instructions.append({"opcode": opcode, **fields})

    def _source(self, node: Node, index: int = 0, prefix: str = "source") -> dict[str, int]:
        """Fields `source`, `source_stride` (or those of another prefix) for input number `index` of `node`."""
        entry: Input = self.graph[node.stage].inputs[index]
        buffer = self.storage.stage(self.graph.inputs(node)[index].stage)
        begin = self.config.part(entry.part).start or 0
        return {prefix: buffer.ctypes.data + 4 * begin, f"{prefix}_stride": buffer.shape[1]}

    def _target(self, node: Node) -> dict[str, int]:
        buffer = self.storage.stage(node.stage)
        return {"target": buffer.ctypes.data, "target_stride": buffer.shape[1]}

    def _nothing(self, node: Node) -> None:
        pass

    def _embed(self, node: Node) -> None:
        (table,) = self.model.params(node)
        self._row(
            Opcode.EMBED, **self._target(node), other=table.data.ctypes.data, other_stride=table.data.shape[1],
            width=table.columns, kind=int(table.type),
        )  # fmt: skip

    def _norm(self, node: Node) -> None:
        width = self.model.params(node)[0].columns
        self._row(
            Opcode.RMS_NORM, **self._source(node), **self._target(node), width=width,
            heads=self.graph[node.stage].width // width, parameter=self.storage.vector(node),
            scalar=self.model.config.norm_epsilon,
        )  # fmt: skip

    def _bias(self, node: Node) -> None:
        width = self.graph[node.stage].width
        vector = self.storage.vector(node)
        self._row(Opcode.BIAS, **self._source(node), **self._target(node), width=width, parameter=vector)

    def _silu(self, node: Node) -> None:
        self._row(Opcode.SILU, **self._source(node), **self._target(node), width=self.graph[node.stage].width)

    def _two_operands(self, opcode: Opcode) -> Callable[[Node], None]:
        def emit(node: Node) -> None:
            operands = self._source(node) | self._source(node, 1, "other")
            self._row(opcode, **operands, **self._target(node), width=self.graph[node.stage].width)

        return emit

    def _rope(self, node: Node) -> None:
        self._row(
            Opcode.ROPE, **self._source(node), **self._target(node), width=self.config.head_dim,
            heads=self.graph[node.stage].width // self.config.head_dim, parameter=self.storage.rope,
            kind=int(self.config.rope_layout is RopeLayout.INTERLEAVED),
        )  # fmt: skip

    def _store(self, node: Node, cache: int) -> None:
        """Put the second input (keys of the scores, values of the attention) into the cache."""
        self._row(
            Opcode.STORE, **self._source(node, 1), other=cache, other_stride=self.storage.context,
            width=self.config.head_dim, heads=self.config.kv_heads, kind=self.half,
        )  # fmt: skip

    def _scores(self, node: Node) -> None:
        assert node.layer is not None
        self._store(node, self.storage.keys(node.layer))

    def _attend(self, node: Node) -> None:
        """The attention of a layer: its scores and softmax as well, which need not be materialised."""
        assert node.layer is not None
        self._store(node, self.storage.values(node.layer))
        softmax = self.graph.inputs(node)[0]
        scores = self.graph.inputs(softmax)[0]
        self._phase(
            Opcode.ATTENTION, **self._source(scores), **self._target(node), width=self.config.head_dim,
            heads=self.config.heads, kv_heads=self.config.kv_heads, other=self.storage.keys(node.layer),
            other_stride=self.storage.context, parameter=self.storage.values(node.layer), kind=self.half,
            scalar=self.config.head_dim**-0.5, count=int(node.layer in self.mapped),
        )  # fmt: skip

    def _matmul(self, node: Node) -> None:
        weights = self.model.params(node)
        wanted = int(is_logits(self.graph[node.stage]))
        for kind in dict.fromkeys(activation_kind(weight.type, self.mode) for weight in weights):
            self._quantize(node, kind, weights[0].columns, wanted)
        begin = 0
        for weight in weights:
            kind = activation_kind(weight.type, self.mode)
            target = {"target_stride": self.graph[node.stage].width} if wanted else self._target(node)
            self._phase(
                Opcode.MATMUL, **target, source=self.storage.quantized(kind),
                source_stride=activation_bytes(kind, weight.columns), other=weight.data.ctypes.data,
                other_stride=weight.data.shape[1], width=weight.columns, heads=weight.rows, kind=int(weight.type),
                count=int(self.mode is Mode.Q8), wanted=wanted,
            )  # fmt: skip
            if not wanted:
                self.instructions[-1]["target"] += 4 * begin
            begin += weight.rows

    def _quantize(self, node: Node, kind: int, columns: int, wanted: int) -> None:
        """Quantise the input of a matmul, unless its buffer holds it already (gate and up share theirs)."""
        source = self.graph.inputs(node)[0]
        if self.quantized.get(kind) == source:
            return
        self.quantized[kind] = source
        self._row(
            Opcode.QUANTIZE, **self._source(node), target=self.storage.quantized(kind), width=columns, kind=int(kind),
            wanted=wanted,
        )  # fmt: skip

    def _statistics(self, layer: int | None) -> None:
        """Statistics of the layer's tapped nodes, while its buffers still hold them."""
        nodes = self.tapped.get(layer, [])
        if not nodes:
            return
        begin = self.described
        for node in nodes:
            stage = self.graph[node.stage]
            where = _WHERE.get(stage.op, Where.LOGITS if is_logits(stage) else Where.STAGE)
            source = self.storage.stage(stage.name).ctypes.data if where is Where.STAGE else 0
            self.descriptors[self.described] = (source, where, stage.width, self.described)
            self.described += 1
        self._phase(Opcode.STATISTICS, parameter=self.descriptors[begin:].ctypes.data, count=self.described - begin)


_WHERE = {Op.SCORES: Where.SCORES, Op.SOFTMAX: Where.SOFTMAX}
