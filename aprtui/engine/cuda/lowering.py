"""From the stage graph to launches: a layer's nodes in the graph's order, dispatched on their ops.

Kernels compute several stages at once. The last node of such a run makes the launch and looks back along the graph for
the others; those make none. A stage that is neither read nor tapped is not stored: the kernel gets null as its
address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from aprtui.engine.cuda import arguments as args
from aprtui.engine.cuda.driver import Launch
from aprtui.engine.cuda.launches import WIDEST_NORM_BEHIND, Launches
from aprtui.engine.cuda.storage import DeviceStorage, Weights
from aprtui.engine.protocol import KvType, Mode
from aprtui.model.model import Model
from aprtui.model.weight_types import InputRounding, WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.config import RopeLayout
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

Q8_TYPES = frozenset(kind for kind in WeightType if kind.format.cuda_input is InputRounding.Q8_1)
"""Weights that meet Q8_1 activations in `q8` mode; all others meet float32."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one run of launches evaluates: one token (`decode`) or a chunk of a prompt, and what is wanted of it."""

    decode: bool
    tokens: int
    map_stride: int
    """Keys from a row of an attention map to the next one."""
    wanted: int
    """Tokens at the end whose logits are wanted."""
    tapped: frozenset[Node]
    few: bool = False
    """The whole prompt is so short that tensor cores would idle: its products are made column by column."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the stage tensors of a pass lie on the device."""

    graph: StageGraph
    storage: DeviceStorage
    run: Pass

    def of(self, node: Node) -> int:
        """Address of `[tokens, width]`, of the wanted rows of logits, or of `[heads, tokens, map_stride]`."""
        stage = self.graph[node.stage]
        if stage.holds_logits:
            return self.storage.logits
        if not stage.is_attention_map:
            return self.storage.of_token[node] if self.run.decode else self.storage.of_chunk[node.stage]
        assert node.layer is not None
        both = self.storage.token_maps(node.layer) if self.run.decode else self.storage.chunk_maps()
        first = stage.op is Op.SCORES
        return both if first else both + 4 * stage.width * self.run.tokens * self.run.map_stride

    def side_by_side(self, node: Node) -> bool:
        """Whether `node` lies in one piece of memory with its neighbours in execution order."""
        stage = self.graph[node.stage]
        return self.run.decode and not stage.is_attention_map and not stage.holds_logits


class Lowering:
    def __init__(
        self, model: Model, kv: KvType, mode: Mode, weights: Weights, storage: DeviceStorage, launches: Launches,
        splits: int,
    ) -> None:  # fmt: skip
        self.model, self.graph, self.config = model, model.graph, model.config.graph
        self.half, self.mode, self.splits = int(kv is KvType.F16), mode, splits
        self.weights, self.storage, self.launches = weights, storage, launches
        self._readers: dict[Node, list[Weight]] = {}
        self._norms: dict[Node, Node] = {}
        for node in self.graph.nodes:
            if self.op(node) is Op.MATMUL:
                self._readers.setdefault(self.source(node), []).extend(model.params(node))
            if self.op(node) is Op.RMS_NORM:
                self._norms[self.source(node)] = node

    def layer(self, layer: int | None, run: Pass) -> list[Launch]:
        """The launches of a layer, or of the stages of the model."""
        emitters = _Emitters(self, run)
        return [
            launch
            for node in self.graph.nodes
            if node.layer == layer
            for launch in emitters.by_op[self.graph[node.stage].op](node)
        ]

    def softmax_maps(self, layers: Iterable[int | None], run: Pass) -> list[Launch]:
        """The tapped maps of exponentials of one token, whose attention has stored what they lack, in few launches."""
        wanted = {node.layer for node in run.tapped if self.op(node) is Op.SOFTMAX and run.decode}
        of = sorted(layer for layer in layers if layer is not None and layer in wanted)
        starts = [layer for layer in of if layer - 1 not in of]
        found = []
        for first in starts:
            count = next(count for count in range(1, len(of) + 1) if first + count not in of)
            arguments = args.SoftmaxMaps(
                self.storage.token_maps(first), self.storage.states(first), self.storage.step, self.config.heads,
                run.map_stride, self.storage.map_layer_stride,
            )  # fmt: skip
            found.append(self.launches.softmax_maps(arguments, count))
        return found

    def values_read(self, node: Node) -> bool:
        """Whether a matrix product reads `node` in float32."""
        readers = self._readers.get(node, [])
        return any(self.mode is Mode.EXACT or weight.type not in Q8_TYPES for weight in readers)

    def q8_read(self, node: Node) -> bool:
        """Whether a matrix product reads `node` in Q8_1."""
        readers = self._readers.get(node, [])
        return self.mode is Mode.Q8 and any(weight.type in Q8_TYPES for weight in readers)

    def norm_behind(self, node: Node, run: Pass) -> Node | None:
        """The norm of `node` that is made in the launch which makes `node`: of one token, where that can be."""
        fits = run.decode and self.op(node) is Op.ADD and self.graph[node.stage].width <= WIDEST_NORM_BEHIND
        return self._norms.get(node) if fits else None

    def op(self, node: Node) -> Op:
        return self.graph[node.stage].op

    def source(self, node: Node, index: int = 0) -> Node:
        return self.graph.inputs(node)[index]


class _Emitters:
    """The launches that end with a node, by its op."""

    def __init__(self, lowering: Lowering, run: Pass) -> None:
        self.low, self.run = lowering, run
        self.graph, self.config, self.storage = lowering.graph, lowering.config, lowering.storage
        self.places = Places(self.graph, self.storage, run)
        later: Callable[[Node], list[Launch]] = lambda node: []  # noqa: E731  # made by a node behind it
        self.by_op: Mapping[Op, Callable[[Node], list[Launch]]] = {
            Op.EMBED: self._embed,
            Op.RMS_NORM: self._norm,
            Op.MATMUL: self._logits,
            Op.BIAS: later,
            Op.HEAD_RMS_NORM: later,
            Op.ROPE: later,
            Op.SCORES: self._heads,
            Op.SOFTMAX: later,
            Op.ATTEND: self._attend,
            Op.ADD: self._add,
            Op.SILU: later,
            Op.MULTIPLY: self._feed_forward,
        }

    def _tap(self, node: Node) -> int:
        """The address of `node` if it is tapped, else null."""
        return self.places.of(node) if node in self.run.tapped else 0

    def _stored(self, node: Node) -> int:
        """The address of `node` if it is tapped or read in float32 by a matrix product, else null."""
        return self.places.of(node) if node in self.run.tapped or self.low.values_read(node) else 0

    def _q8_of(self, node: Node) -> args.Q8Output:
        return self.storage.q8[node.stage] if self.low.q8_read(node) else args.Q8Output()

    def _activations(self, node: Node, first: int = 0) -> args.Activations:
        """`node` from token `first` on, in the forms in which matrix products read it."""
        width, found = self.graph[node.stage].width, args.Activations()
        if self.low.values_read(node):
            found.values = self.places.of(node) + 4 * first * width
        if self.low.q8_read(node):
            q8 = self.storage.q8[node.stage]
            found.levels, found.scales = q8.levels + first * width, q8.scales + first * width // 4
        return found

    def _matrices(self, node: Node) -> list[args.Matrix]:
        return [self.low.weights.matrix(weight) for weight in self.low.model.params(node)]

    def _vector(self, node: Node, index: int = 0) -> int:
        return self.low.weights.vectors[self.low.model.params(node)[index].name]

    def _embed(self, node: Node) -> list[Launch]:
        (table,) = self._matrices(node)
        arguments = args.Embed(table, self.storage.tokens, self.places.of(node))
        return [self.low.launches.embed(arguments, self.run.tokens)]

    def _norm(self, node: Node) -> list[Launch]:
        if self.low.norm_behind(self.low.source(node), self.run) is not None:
            return []
        arguments = args.RmsNorm(
            self.places.of(self.low.source(node)), self._vector(node), self._stored(node), self._q8_of(node),
            self.graph[node.stage].width, self.low.model.config.norm_epsilon,
        )  # fmt: skip
        return [self.low.launches.rms_norm(arguments, self.run.tokens)]

    def _products(self, matrices: Mapping[int, args.Matrix], source: Node, stride: int) -> list[Launch]:
        """Products of `source`, the tokens of a prompt, by their addresses: on tensor cores in one launch."""
        x, tokens = self._activations(source), self.run.tokens
        if all(self._on_tensor_cores(matrix) for matrix in matrices.values()):
            parts = [args.MatrixOfPrompt(matrix, place) for place, matrix in matrices.items()]
            first, second, third = (*parts, args.MatrixOfPrompt(), args.MatrixOfPrompt())[:3]
            return [self.low.launches.matmul_q8(args.ProductsOfPrompt(first, second, third, x, 0, 0, tokens, stride))]
        return [self._product(matrix, x, tokens, stride, product=place) for place, matrix in matrices.items()]

    def _on_tensor_cores(self, matrix: args.Matrix) -> bool:
        run = self.run
        return self.low.mode is Mode.Q8 and not run.decode and not run.few and matrix.format in Q8_TYPES

    def _product(
        self, matrix: args.Matrix, x: args.Activations, tokens: int, stride: int,
        *, product: int = 0, residual: int = 0, total: int = 0, norm: Node | None = None,
    ) -> Launch:  # fmt: skip
        launches = self.low.launches
        if self._on_tensor_cores(matrix):
            none, only = args.MatrixOfPrompt(), args.MatrixOfPrompt(matrix, product)
            return launches.matmul_q8(args.ProductsOfPrompt(only, none, none, x, residual, total, tokens, stride))
        of_all = matrix, x, residual, product, total, tokens, stride
        if self.run.decode:
            behind = self._norm_arguments(norm) if norm is not None else args.Norm()
            return launches.product_of_one(args.ProductOfOne(*of_all, behind))
        return launches.product(args.Product(*of_all))

    def _norm_arguments(self, node: Node) -> args.Norm:
        return args.Norm(
            self._vector(node), self._stored(node), self._q8_of(node), self.storage.counters,
            self.low.model.config.norm_epsilon,
        )  # fmt: skip

    def _logits(self, node: Node) -> list[Launch]:
        """The product that makes the logits; other products are launched with the node that reads them."""
        if not self.graph[node.stage].holds_logits or not self.run.wanted:
            return []
        (matrix,) = self._matrices(node)
        x = self._activations(self.low.source(node), self.run.tokens - self.run.wanted)
        return [self._product(matrix, x, self.run.wanted, matrix.rows, product=self.places.of(node))]

    def _heads(self, scores: Node) -> list[Launch]:
        """Q, K and V, biases and norms, RoPE, and the keys and values put into the cache."""
        q_turned, k_turned = self.graph.inputs(scores)
        heads = self._head_arguments(scores.layer, q_turned, k_turned)
        product = self._fused_product(q_turned)
        heads.product = self.places.of(product)
        q, k, v = self._matrices(product)
        source = self.low.source(product)
        if self.run.decode:
            x = self._activations(source)
            return [self.low.launches.qkv(args.Qkv(q, k, v, x, heads, self.storage.step, self.storage.counters))]
        places = {heads.product: q, heads.product + 4 * q.rows: k, heads.product + 4 * (q.rows + k.rows): v}
        return [
            *self._products(places, source, self.config.qkv_width),
            self.low.launches.heads(args.HeadsOfPrompt(heads, self.storage.step), self.run.tokens),
        ]

    def _fused_product(self, node: Node) -> Node:
        while self.low.op(node) is not Op.MATMUL:
            node = self.low.source(node)
        return node

    def _head_arguments(self, layer: int | None, q_turned: Node, k_turned: Node) -> args.Heads:
        assert layer is not None
        config, storage = self.config, self.storage
        heads = args.Heads(
            turns=storage.turns, key_cache=storage.keys(layer), value_cache=storage.values(layer),
            q_turned=self.places.of(q_turned), k_turned=self._tap(k_turned), epsilon=self.low.model.config.norm_epsilon,
            heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim, context=storage.context,
            interleaved=int(config.rope_layout is RopeLayout.INTERLEAVED), half_cache=self.low.half,
        )  # fmt: skip
        q, k = self.low.source(q_turned), self.low.source(k_turned)
        if self.low.op(q) is Op.HEAD_RMS_NORM:
            heads.q_norm, heads.k_norm = self._vector(q), self._vector(k)
            heads.q_normed, heads.k_normed = self._tap(q), self._tap(k)
            q = self.low.source(q)
        if self.low.op(q) is Op.BIAS:
            heads.q_bias, heads.k_bias, heads.v_bias = (self._vector(q, index) for index in range(3))
            heads.biased = self._tap(q)
        return heads

    def _attend(self, node: Node) -> list[Launch]:
        softmax = self.low.source(node)
        scores = self.low.source(softmax)
        assert node.layer is not None
        config, storage = self.config, self.storage
        # Each run of keys stores its scores; the softmax needs those of all runs.
        keeps_scores = self.run.tapped & {scores, softmax}
        attention = args.Attention(
            q=self.places.of(self.low.source(scores)), key_cache=storage.keys(node.layer),
            value_cache=storage.values(node.layer), scores=self.places.of(scores) if keeps_scores else 0,
            softmax=0 if self.run.decode else self._tap(softmax), out=self.places.of(node),
            heads=config.heads, kv_heads=config.kv_heads,
            head_dim=config.head_dim, context=storage.context, map_stride=self.run.map_stride, half_cache=self.low.half,
        )  # fmt: skip
        q8 = self._q8_of(node)
        if not self.run.decode:
            arguments = args.AttendPrompt(attention, storage.step)
            return [self.low.launches.attend_prompt(arguments, self.run.tokens), *self._rounded(node, q8)]
        in_one = config.heads // config.kv_heads * config.head_dim % 32 == 0
        if in_one:
            attention.q8 = q8
        states = storage.states(node.layer) if softmax in self.run.tapped else 0
        one = args.AttendOne(attention, storage.step, storage.partial, storage.counters, states)
        return [self.low.launches.attend_one(one, self.low.splits), *([] if in_one else self._rounded(node, q8))]

    def _rounded(self, node: Node, q8: args.Q8Output) -> list[Launch]:
        """Rounds `node` to Q8_1 where it is read so and its own kernel does not round it."""
        if not q8.levels:
            return []
        blocks = self.run.tokens * self.graph[node.stage].width // 32
        return [self.low.launches.quantize(args.Quantize(self.places.of(node), q8, blocks))]

    def _add(self, node: Node) -> list[Launch]:
        """A matrix product, the residual that it is added to, and of one token the norm of their sum."""
        residual, product = self.graph.inputs(node)
        (matrix,) = self._matrices(product)
        return [
            self._product(
                matrix, self._activations(self.low.source(product)), self.run.tokens, matrix.rows,
                product=self._tap(product), residual=self.places.of(residual), total=self.places.of(node),
                norm=self.low.norm_behind(node, self.run),
            )
        ]  # fmt: skip

    def _feed_forward(self, node: Node) -> list[Launch]:
        silu, up = self.graph.inputs(node)
        gate = self.low.source(silu)
        (gate_matrix,), (up_matrix,) = self._matrices(gate), self._matrices(up)
        source = self.low.source(gate)
        out = args.FeedForward(silu=self._tap(silu), out=self._stored(node), q8=self._q8_of(node))
        if self.run.decode:
            out.gate, out.up = self._tap(gate), self._tap(up)
            x = self._activations(source)
            return [self.low.launches.gate_up(args.GateUp(gate_matrix, up_matrix, x, out))]
        gates, ups = self.places.of(gate), self.places.of(up)
        blocks = self.run.tokens * self.config.ffn // 32
        return [
            *self._products({gates: gate_matrix, ups: up_matrix}, source, self.config.ffn),
            self.low.launches.activate(args.Activate(gates, ups, out, blocks)),
        ]
