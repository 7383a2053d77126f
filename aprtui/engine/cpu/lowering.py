"""From the stage graph to a program: one instruction a node, in the graph's order, dispatched on the node's op."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.kv_cache import kv_number
from aprtui.engine.cpu.matmul import ActivationKind, activation_bytes, activation_kind
from aprtui.engine.cpu.operations import Kernel, matmul_kernel, operation_address, rounding_kernel
from aprtui.engine.cpu.program import (
    DELTA_INPUTS,
    DESCRIPTOR,
    INSTRUCTION,
    AttentionPart,
    DeltaPart,
    Opcode,
    Where,
)
from aprtui.engine.cpu.storage import CpuStorage
from aprtui.engine.gelu import gelu_table
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.rounding import ARITHMETIC
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph.config import GroupScore, RopeLayout
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import Input, Node, Stage


@dataclass(frozen=True, slots=True)
class KernelProgram:
    """Instructions; those of a layer end at `ends[layer]`, with None for the stages of the model.

    `cuts` says the same of the nodes that it was cut at, in execution order: instructions of two nodes are not mixed
    there, so that with a cut at every node each can be run alone. `maps`: some attention maps are materialised.
    `descriptors` are what the statistics instructions point at, and `tables` what others do; they live as long as the
    program. `owners` `[I]` has for each instruction the place in execution order of the first node that it computes; −1
    where it computes none.
    """

    instructions: NDArray[np.void]
    owners: NDArray[np.int64]
    ends: Mapping[int | None, int]
    cuts: Mapping[Node, int]
    maps: bool
    descriptors: NDArray[np.void]
    tables: tuple[NDArray[np.void], ...] = ()


def lower(
    model: Model, mode: Mode, kv: KvType, storage: CpuStorage, full: frozenset[Node] = frozenset(),
    stats: frozenset[Node] = frozenset(), cuts: frozenset[Node] = frozenset(),
) -> KernelProgram:  # fmt: skip
    """The program for `model` that leaves the nodes `full` in their buffers and computes the statistics of `stats`.

    It can be stopped after each of the nodes `cuts`, whose inputs and output are then there to be read and replaced.
    Taps and cuts decide which tokens and maps are computed; they change no value.
    """
    return _Lowering(model, mode, kv, storage, full | stats, stats, cuts).lower()


class _Lowering:
    def __init__(
        self, model: Model, mode: Mode, kv: KvType, storage: CpuStorage,
        tapped: frozenset[Node], stats: frozenset[Node], cuts: frozenset[Node],
    ) -> None:  # fmt: skip
        assert model.graph.config is not None
        self.model, self.graph, self.config = model, model.graph, model.graph.config
        self.mode, self.storage = mode, storage
        self.kv = kv_number(kv)
        self.cuts = cuts
        seen = tapped | cuts | {source for node in cuts for source in self.graph.inputs(node)}
        self.mapped = {node.layer for node in seen if self.graph[node.stage].is_attention_map}
        self.partial = self._partial_nodes(tapped | cuts)
        self.wanted = 0
        self.owner = -1
        self.owners: list[int] = []
        self.instructions: list[dict[str, Any]] = []
        self.open_rows: dict[str, Any] | None = None
        self.quantized: dict[ActivationKind, Node] = {}
        self.grouped: object = None
        self.gathered: dict[ActivationKind, Node] = {}
        self.queries: dict[str, int] = {}
        self.parts = AttentionPart(0)
        self.sinks = 0
        self.delta_parts = DeltaPart(0)
        self.tables: list[NDArray[np.void]] = []
        nodes = [node for node in self.graph.nodes if node in stats]
        self.counted = {layer: [node for node in nodes if node.layer == layer] for layer in {n.layer for n in nodes}}
        self.descriptors = np.zeros(len(nodes), DESCRIPTOR)
        self.described = 0
        self.emitters: Mapping[Op, Callable[[Node], None]] = {
            Op.EMBED: self._embed,
            Op.RMS_NORM: self._norm,
            Op.HEAD_RMS_NORM: self._norm,
            Op.MATMUL: self._matmul,
            Op.BIAS: self._with_vector(Opcode.BIAS),
            Op.ROPE: self._rope,
            Op.POSITION_SCALE: self._position_scale,
            Op.SCORES: self._scores,
            Op.SOFTCAP: self._softcap,
            Op.SOFTMAX: self._softmax,
            Op.ATTEND: self._attend,
            Op.ADD: self._two_operands(Opcode.ADD),
            Op.SILU: self._silu,
            Op.GELU: self._gelu,
            Op.SIGMOID: self._sigmoid,
            Op.HEAD_GATE: self._halves_of_heads(Opcode.SIGMOID, back=True),
            Op.HEAD_FRONT: self._halves_of_heads(Opcode.TAKE_HEADS, back=False),
            Op.HEAD_BACK: self._halves_of_heads(Opcode.TAKE_HEADS, back=True),
            Op.HEAD_JOIN: self._head_join,
            Op.HEAD_MATMUL: self._head_matmul,
            Op.SWIGLU_OAI: self._two_operands(Opcode.SWIGLU_OAI),
            Op.MULTIPLY: self._two_operands(Opcode.MULTIPLY),
            Op.SCALE_ROWS: self._two_operands(Opcode.SCALE_ROWS),
            Op.ROUTER_SOFTMAX: self._router_softmax,
            Op.SOFTMAX_CHOSEN: self._router_softmax,
            Op.CHOOSE_EXPERTS: self._choose_experts,
            Op.TAKE_CHOSEN: self._take_chosen,
            Op.NORMALISE_CHOSEN: self._normalise_chosen,
            Op.SCALE_CHOSEN: self._scale_chosen,
            Op.EXPERT_MATMUL: self._expert_matmul,
            Op.EXPERT_BIAS: self._expert_bias,
            Op.COMBINE_EXPERTS: self._combine_experts,
            Op.CONVOLUTION: self._convolution,
            Op.HEAD_L2_NORM: self._head_l2_norm,
            Op.SOFTPLUS: self._with_vector(Opcode.SOFTPLUS),
            Op.DECAY: self._with_vector(Opcode.DECAY),
            Op.DELTA_STATE: self._delta_state,
            Op.DELTA_OUTPUT: self._delta_output,
        }

    def _partial_nodes(self, tapped: frozenset[Node]) -> frozenset[Node]:
        """Nodes that are computed only for the tokens whose logits are wanted: the logits, and what leads to them.

        From the last attention on, and behind the last recurrence, no token needs another one. Tapped nodes have all
        tokens, and so have the maps of the last layer, which its attention instruction computes.
        """
        nodes = self.graph.nodes
        last = {self.graph[node.stage].op: index for index, node in enumerate(nodes)}
        logits = {node for node in nodes if self.graph[node.stage].holds_logits}
        attention, recurrence = last.get(Op.ATTEND, -1), last.get(Op.DELTA_OUTPUT, -1)
        begin = max(attention, recurrence + 1)
        untapped = last[Op.SCORES] if begin == attention else begin
        if (frozenset(nodes[untapped:]) - logits) & tapped:
            return frozenset(logits)
        return frozenset(nodes[begin:])

    def lower(self) -> KernelProgram:
        ends: dict[int | None, int] = {}
        cuts: dict[Node, int] = {}
        for layer in [*range(self.graph.layers), None]:
            self.open_rows = None
            for node in self.graph.nodes:
                if node.layer == layer:
                    self.wanted = int(node in self.partial)
                    # One instruction may do scores, softmax and sums: it belongs to the first of them.
                    self.owner = self.owner if self.parts or self.delta_parts else self.graph.order[node]
                    self.emitters[self.graph[node.stage].op](node)
                    if node in self.cuts:
                        cuts[node] = len(self.instructions)
                        self.open_rows = None
                        # A node that is run alone sorts what its experts multiply itself.
                        self.grouped, self.gathered = None, {}
            self.owner = -1
            self._statistics(layer)
            ends[layer] = len(self.instructions)
        table = np.zeros(len(self.instructions), INSTRUCTION)
        for row, fields in zip(table, self.instructions, strict=True):
            kernel = fields.pop("kernel", Kernel(fields["opcode"]))
            if kernel.opcode is not Opcode.ROWS:
                row["function"] = operation_address(kernel)
            for name, value in fields.items():
                row[name] = value
        owners = np.array(self.owners, np.int64)
        return KernelProgram(table, owners, ends, cuts, bool(self.mapped), self.descriptors, tuple(self.tables))

    def _phase(self, opcode: Opcode, **fields: Any) -> dict[str, Any]:
        """An instruction whose pieces the threads share out. Matmuls in a row are independent: their inputs are
        quantised before the first of them."""
        before = self.instructions[-1]["opcode"] if self.instructions else None
        barrier = int(not (opcode is before and opcode in (Opcode.MATMUL, Opcode.EXPERT_MATMUL)))
        self.open_rows = None
        self.instructions.append({"opcode": opcode, "barrier": barrier, "wanted": self.wanted, **fields})
        self.owners.append(self.owner)
        return self.instructions[-1]

    def _row(self, opcode: Opcode, **fields: Any) -> None:
        """An instruction on single tokens; neighbours share one `ROWS` with the tokens that any of them needs."""
        if self.open_rows is None:
            self.open_rows = self._phase(Opcode.ROWS, count=0)
        instruction = {"opcode": opcode, "wanted": self.wanted, **fields}
        self.open_rows["count"] += 1
        self.open_rows["wanted"] &= instruction["wanted"]
        self.instructions.append(instruction)
        self.owners.append(-1)

    def _source(self, node: Node, index: int = 0, prefix: str = "source") -> dict[str, int]:
        """Fields `source`, `source_stride` (or those of another prefix) for input number `index` of `node`."""
        entry: Input = self.graph.entries(node)[index]
        buffer = self.storage.stages[self.graph.inputs(node)[index].stage]
        begin = self.config.part(entry.part).start or 0
        return {prefix: buffer.ctypes.data + 4 * begin, f"{prefix}_stride": buffer.shape[1]}

    def _target(self, node: Node) -> dict[str, int]:
        stage = self.graph[node.stage]
        if stage.holds_logits:
            return {"target": 0, "target_stride": stage.width}
        buffer = self.storage.stages[node.stage]
        return {"target": buffer.ctypes.data, "target_stride": buffer.shape[1]}

    def _embed(self, node: Node) -> None:
        (table,) = self.model.params(node)
        self._row(
            Opcode.EMBED, **self._target(node), other=table.data.ctypes.data, other_stride=table.data.shape[1],
            width=table.columns, scalar=self.model.config.embedding_scale, kernel=Kernel(Opcode.EMBED, table.type),
        )  # fmt: skip

    def _norm(self, node: Node) -> None:
        self._row(
            Opcode.RMS_NORM, **self._heads(node), **self._target(node), parameter=self.storage.vector(node),
            scalar=self.model.config.norm_epsilon,
        )  # fmt: skip

    def _heads(self, node: Node) -> dict[str, int]:
        """Fields of an op that treats the heads of its input each by itself; those of Q may have a gate behind them."""
        stage, entry = self.graph[node.stage], self.graph.entries(node)[0]
        size = stage.head_size or stage.width
        between = self.config.q_head_width if entry.part is Part.Q else size
        heads = {"width": size, "heads": stage.width // size, "source_head_stride": between}
        return self._source(node) | heads

    def _with_vector(self, opcode: Opcode) -> Callable[[Node], None]:
        def emit(node: Node) -> None:
            width, vector = self.graph[node.stage].width, self.storage.vector(node)
            self._row(opcode, **self._source(node), **self._target(node), width=width, parameter=vector)

        return emit

    def _sigmoid(self, node: Node) -> None:
        self._row(Opcode.SIGMOID, **self._heads(node), **self._target(node))

    def _halves_of_heads(self, opcode: Opcode, *, back: bool) -> Callable[[Node], None]:
        def emit(node: Node) -> None:
            stage, entry = self.graph[node.stage], self.graph.entries(node)[0]
            columns = self.config.part(entry.part).indices(self.graph[entry.stage].width)
            whole, size = len(range(*columns)) // stage.heads, stage.head_size
            fields = self._source(node) | {"width": size, "heads": stage.heads, "source_head_stride": whole}
            fields["source"] += 4 * (whole - size) * back
            self._row(opcode, **fields, **self._target(node), target_head_stride=size)

        return emit

    def _head_join(self, node: Node) -> None:
        stage, widths = self.graph[node.stage], [self.graph[source.stage].width for source in self.graph.inputs(node)]
        front = widths[0] // stage.heads
        back = stage.head_size - front
        target = self._target(node)
        for index, (start, size) in enumerate(((0, front), (front, back))):
            fields = self._source(node, index) | {"width": size, "heads": stage.heads}
            fields["source_head_stride"] = size if widths[index] > size else 0
            fields["target"] = target["target"] + 4 * start
            self._row(
                Opcode.TAKE_HEADS, **fields, target_stride=target["target_stride"], target_head_stride=stage.head_size
            )

    def _head_matmul(self, node: Node) -> None:
        """A product of experts whose tokens choose all of them, one after the other: each head has a matrix."""
        (weight,) = self.model.params(node)
        everyone = {"source": self.storage.every_head, "source_stride": 0}
        self._expert_product(node, weight, ("every head", self.wanted), everyone, weight.experts)

    def _silu(self, node: Node) -> None:
        self._row(Opcode.SILU, **self._source(node), **self._target(node), width=self.graph[node.stage].width)

    def _gelu(self, node: Node) -> None:
        looked_up = ARITHMETIC[self.mode].activation == "f16"
        self._row(
            Opcode.GELU, **self._source(node), **self._target(node), width=self.graph[node.stage].width,
            kind=int(looked_up), parameter=gelu_table().ctypes.data if looked_up else 0,
        )  # fmt: skip

    def _two_operands(self, opcode: Opcode) -> Callable[[Node], None]:
        def emit(node: Node) -> None:
            operands = self._source(node) | self._source(node, 1, "other")
            self._row(opcode, **operands, **self._target(node), width=self.graph[node.stage].width)

        return emit

    def _rope(self, node: Node) -> None:
        assert node.layer is not None
        size = self.graph[node.stage].head_size
        fields = self._heads(node) | {"width": self.config.rotated, "target_head_stride": size}
        self._row(
            Opcode.ROPE, **fields, **self._target(node), parameter=self.storage.rope(node.layer),
            kind=int(self.config.rope_layout is RopeLayout.INTERLEAVED) if self.config.has_rope(node.layer) else _COPY,
        )  # fmt: skip

    def _position_scale(self, node: Node) -> None:
        width = self.graph[node.stage].width
        self._row(
            Opcode.POSITION_SCALE, **self._source(node), **self._target(node), width=width,
            parameter=self.storage.position_factors,
        )  # fmt: skip

    def _store(self, opcode: Opcode, node: Node, cache: int) -> None:
        """Put the second input (keys of the scores, values of the attention) into the cache."""
        width = self.config.head_dim if opcode is Opcode.STORE_KEYS else self.config.value_dim
        self._row(
            opcode, **self._source(node, 1), other=cache, other_stride=self.storage.plane,
            width=width, heads=self.config.kv_heads, kind=self.kv, wanted=0,
        )  # fmt: skip

    def _scores(self, node: Node) -> None:
        assert node.layer is not None
        self._store(Opcode.STORE_KEYS, node, self.storage.keys(node.layer))
        self.queries = self._source(node)
        self._attention(node, AttentionPart.SCORES)

    def _softcap(self, node: Node) -> None:
        stage = self.graph[node.stage]
        if stage.is_attention_map:
            self._attention(node, AttentionPart.SOFTCAP)
        else:
            self._row(Opcode.SOFTCAP, width=stage.width, scalar=self.model.config.softcap(stage))

    def _softmax(self, node: Node) -> None:
        self.sinks = self.storage.vector(node) if self.model.params(node) else 0
        self._attention(node, AttentionPart.SOFTMAX)

    def _attend(self, node: Node) -> None:
        assert node.layer is not None
        self._store(Opcode.STORE_VALUES, node, self.storage.values(node.layer))
        self._attention(node, AttentionPart.SUMS, **self._target(node))

    def _attention(self, node: Node, part: AttentionPart, **target: int) -> None:
        """One instruction for all from scores to sums, whose maps need not be materialised; but it ends with a cut."""
        assert node.layer is not None
        self.parts |= part
        if part is not AttentionPart.SUMS and node not in self.cuts:
            return
        maps = AttentionPart.MAPS if node.layer in self.mapped else AttentionPart(0)
        self._phase(
            Opcode.ATTENTION, **self.queries, **target, width=self.config.head_dim, value_width=self.config.value_dim,
            heads=self.config.heads, kv_heads=self.config.kv_heads, other=self.storage.keys(node.layer),
            other_stride=self.storage.plane, parameter=self.storage.values(node.layer), kind=self.kv,
            window=self.config.window(node.layer) or _NO_WINDOW, scalar=self.model.config.score_scale,
            softcap=self.model.config.attn_softcap, sinks=self.sinks, count=int(self.parts | maps),
        )  # fmt: skip
        self.parts = AttentionPart(0)

    def _matmul(self, node: Node) -> None:
        weights = self.model.params(node)
        for kind in dict.fromkeys(activation_kind(weight.type, self.mode) for weight in weights):
            self._quantize(node, kind, weights[0].columns)
        target = self._target(node)
        for weight in weights:
            self._phase(
                Opcode.MATMUL, **target, **self._matmul_input(node, activation_kind(weight.type, self.mode)),
                other=weight.data.ctypes.data, other_stride=weight.data.shape[1], width=weight.columns,
                heads=weight.rows, kernel=matmul_kernel(Op.MATMUL, weight.type, self.mode),
            )  # fmt: skip
            target["target"] += 4 * weight.rows

    def _matmul_input(self, node: Node, kind: ActivationKind) -> dict[str, int]:
        """Fields `source`, `source_stride` of a matmul: where its input is after `_quantize`, and bytes of a row."""
        if kind is ActivationKind.F32:
            plain = self._source(node)
            return {"source": plain["source"], "source_stride": 4 * plain["source_stride"]}
        columns = self.model.params(node)[0].columns
        return {"source": self.storage.quantized(kind), "source_stride": activation_bytes(kind, columns)}

    def _quantize(self, node: Node, kind: ActivationKind, columns: int) -> None:
        """Quantise the input of a matmul, unless its buffer holds it already (gate and up share theirs)."""
        source = self.graph.inputs(node)[0]
        if kind is not ActivationKind.F32 and self.quantized.get(kind) != source:
            self.quantized[kind] = source
            target = self.storage.quantized(kind)
            self._row(
                Opcode.QUANTIZE, **self._source(node), target=target, width=columns, kind=int(kind),
                kernel=rounding_kernel(kind),
            )  # fmt: skip

    def _router_softmax(self, node: Node) -> None:
        width = self.graph[node.stage].width
        self._row(Opcode.ROUTER_SOFTMAX, **self._source(node), **self._target(node), width=width)

    def _choose_experts(self, node: Node) -> None:
        groups = self.config.expert_groups
        limits = {} if groups is None else {
            "count": groups.count, "kv_heads": groups.used, "kind": int(groups.score is GroupScore.TWO_LARGEST)
        }  # fmt: skip
        self._row(
            Opcode.CHOOSE_EXPERTS, **self._source(node), **self._target(node), width=self.config.experts,
            heads=self.config.experts_used, **limits,
        )  # fmt: skip

    def _take_chosen(self, node: Node) -> None:
        operands = self._source(node) | self._source(node, 1, "other")
        width, heads = self.config.experts, self.config.experts_used
        self._row(Opcode.TAKE_CHOSEN, **operands, **self._target(node), width=width, heads=heads)

    def _normalise_chosen(self, node: Node) -> None:
        width = self.config.experts_used
        self._row(Opcode.NORMALISE_CHOSEN, **self._source(node), **self._target(node), width=width)

    def _scale_chosen(self, node: Node) -> None:
        self._row(
            Opcode.SCALE_CHOSEN, **self._source(node), **self._target(node), width=self.config.experts_used,
            scalar=self.model.config.expert_weights_scale,
        )  # fmt: skip

    def _expert_matmul(self, node: Node) -> None:
        (weight,) = self.model.params(node)
        choice = self.graph.inputs(node)[1]
        self._expert_product(node, weight, choice, self._source(node, 1), self.config.experts_used)

    def _expert_product(self, node: Node, weight: Weight, choice: object, chosen: dict[str, int], used: int) -> None:
        """`choice` says which experts each token chose, `used` of them, whose numbers are at `chosen`."""
        kind = activation_kind(weight.type, self.mode)
        self._group(choice, chosen, weight.experts, used)
        self._gather(node, kind, weight.columns, used)
        self._phase(
            Opcode.EXPERT_MATMUL, **self._target(node), source=self.storage.gathered(kind),
            source_stride=activation_bytes(kind, weight.columns), other=weight.data.ctypes.data,
            other_stride=weight.data.shape[1], width=weight.columns, heads=weight.expert_rows,
            kv_heads=used, count=weight.experts, parameter=self.storage.grouping,
            kernel=matmul_kernel(Op.EXPERT_MATMUL, weight.type, self.mode),
        )  # fmt: skip

    def _group(self, choice: object, chosen: dict[str, int], experts: int, used: int) -> None:
        """Sort the slots of the chunk by expert, unless they are."""
        if self.grouped != choice:
            self.grouped, self.gathered = choice, {}
            self._phase(
                Opcode.GROUP_EXPERTS, **chosen, width=experts, heads=used, count=1, parameter=self.storage.grouping,
                other=self.storage.places,
            )  # fmt: skip

    def _gather(self, node: Node, kind: ActivationKind, columns: int, used: int) -> None:
        """Round and sort what the experts of `node` multiply, unless its buffer holds it already (gate and up)."""
        source = self.graph.inputs(node)[0]
        if self.gathered.get(kind) != source:
            self.gathered[kind] = source
            self._row(
                Opcode.GATHER_ROWS, **self._source(node), target=self.storage.gathered(kind),
                target_stride=activation_bytes(kind, columns), width=columns, heads=used,
                count=int(self.graph[source.stage].width > columns), other=self.storage.places, kind=int(kind),
            )  # fmt: skip

    def _expert_bias(self, node: Node) -> None:
        (biases,) = self.model.params(node)
        operands = self._source(node) | self._source(node, 1, "other")
        self._row(
            Opcode.EXPERT_BIAS, **operands, **self._target(node), width=biases.columns,
            heads=self.config.experts_used, count=biases.rows, parameter=self.storage.vector(node),
        )  # fmt: skip

    def _combine_experts(self, node: Node) -> None:
        operands = self._source(node) | self._source(node, 1, "other")
        self._row(
            Opcode.COMBINE_EXPERTS, **operands, **self._target(node), width=self.graph[node.stage].width,
            heads=self.config.experts_used,
        )  # fmt: skip

    def _convolution(self, node: Node) -> None:
        assert node.layer is not None
        fields = self._source(node) | {
            "width": self.graph[node.stage].width, "heads": self.config.conv_kernel,
            "other": self.storage.recurrent.rows(node.layer),
        }  # fmt: skip
        self._row(Opcode.CONVOLUTION, **fields, **self._target(node), parameter=self.storage.vector(node))
        self._phase(Opcode.KEEP_ROWS, **fields, count=1)

    def _head_l2_norm(self, node: Node) -> None:
        epsilon = self.model.config.norm_epsilon
        self._row(Opcode.HEAD_L2_NORM, **self._heads(node), **self._target(node), scalar=epsilon)

    def _delta_state(self, node: Node) -> None:
        self.delta_parts |= DeltaPart.STATE
        if node in self.cuts:
            self._delta_rule(node, 0)

    def _delta_output(self, node: Node) -> None:
        self.delta_parts |= DeltaPart.OUTPUT
        self._delta_rule(node, 2, queries=self._source(node, 1), **self._target(node))

    def _delta_rule(self, node: Node, first: int, queries: dict[str, int] | None = None, **target: int) -> None:
        """State and output in one instruction, but it ends with a cut; the inputs of both begin at number `first`."""
        assert node.layer is not None
        inputs = {"queries": queries or self._source(node, first)}
        inputs |= {name: self._source(node, first + i) for i, name in enumerate(("keys", "values", "decays", "rates"))}
        table = np.zeros(1, DELTA_INPUTS)
        for name, fields in inputs.items():
            table[name], table[f"{name}_stride"] = fields["source"], fields["source_stride"]
        state = node.stage if self.graph[node.stage].holds_state else self.graph.inputs(node)[0].stage
        table["carried"] = self.storage.recurrent.state(node.layer)
        table["state"] = self.storage.stages[state].ctypes.data
        self.tables.append(table)
        dim = self.config.linear_head_dim
        wanted, self.wanted = self.wanted, 0  # every token changes the state
        self._phase(
            Opcode.DELTA_RULE, **target, width=dim, count=self.config.linear_value_heads,
            kv_heads=self.config.linear_key_heads, heads=self._value_heads_together(), parameter=table.ctypes.data,
            kind=int(self.delta_parts), scalar=dim**-0.5,
        )  # fmt: skip
        self.wanted, self.delta_parts = wanted, DeltaPart(0)

    def _value_heads_together(self) -> int:
        """How many value heads that stand side by side share a key head."""
        config = self.config
        return config.linear_value_heads // config.linear_key_heads if config.grouped_value_heads else 1

    def _statistics(self, layer: int | None) -> None:
        """Statistics of the layer's tapped nodes, while its buffers still hold them."""
        nodes = self.counted.get(layer, [])
        if not nodes:
            return
        begin = self.described
        for node in nodes:
            stage = self.graph[node.stage]
            where = _where(stage)
            source = self.storage.stages[stage.name].ctypes.data if where in (Where.STAGE, Where.STATE) else 0
            self.descriptors[self.described] = (source, where, stage.width, self.described)
            self.described += 1
        self._phase(Opcode.STATISTICS, parameter=self.descriptors[begin:].ctypes.data, count=self.described - begin)


_COPY = 2
"""As the kind of a ROPE: of a layer that has none."""

_NO_WINDOW = 1 << 40
"""More positions than any query has before it."""

_MAPS = {Op.SCORES: Where.SCORES, Op.SOFTCAP: Where.SOFTCAP, Op.SOFTMAX: Where.SOFTMAX}
_LOGITS = {Op.MATMUL: Where.LOGITS, Op.SOFTCAP: Where.CAPPED_LOGITS}


def _where(stage: Stage) -> Where:
    """Where the values of a stage lie."""
    if stage.is_attention_map:
        return _MAPS[stage.op]
    if stage.holds_state:
        return Where.STATE
    return _LOGITS[stage.op] if stage.holds_logits else Where.STAGE
