"""From the stage graph to launches: a layer's nodes in the graph's order, dispatched on their ops.

Kernels compute several stages at once. The last node of such a run makes the launch and looks back along the graph for
the others; those make none. A stage that is neither read nor tapped is not stored: the kernel gets null as its
address.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aprtui.engine.cuda import arguments as args
from aprtui.engine.cuda.driver import Launch
from aprtui.engine.cuda.launches import WIDEST_NORM_BEHIND, Launches
from aprtui.engine.cuda.sizes import expert_tiles, map_stages, split_turns
from aprtui.engine.cuda.storage import DeviceStorage, Weights
from aprtui.engine.protocol import KvType, Mode
from aprtui.model.model import Model
from aprtui.model.weight_types import InputRounding, WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.config import GroupScore, RopeLayout
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op
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
    few_of_expert: bool = False
    """The same of the experts' products: of the whole prompt, an expert gets few tokens on average."""


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
            return self.storage.uncapped if stage.op is Op.MATMUL else self.storage.logits
        if not stage.is_attention_map:
            return self.storage.of_token[node] if self.run.decode else self.storage.of_chunk[node.stage]
        assert node.layer is not None
        maps = self.storage.token_maps(node.layer) if self.run.decode else self.storage.chunk_maps()
        return maps + 4 * map_stages(self.graph).index(node.stage) * stage.width * self.run.tokens * self.run.map_stride

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
        self.in_sums: set[Node] = set()
        """What a block gives after its last product or sum, which the launch makes that adds it to the residual."""
        self.shares = {self.source(node, 1) for node in self.graph.nodes if self.op(node) is Op.COMBINE_EXPERTS}
        """The weights by which experts are summed: the last stages of their routers."""
        for node in self.graph.nodes:
            if self.op(node) in MATRIX_PRODUCTS:
                self._readers.setdefault(self.source(node), []).extend(model.params(node))
            if self.op(node) is Op.RMS_NORM:
                self._norms[self.source(node)] = node
            if self.op(node) is Op.ADD:
                self.in_sums |= set(self.given(node)[:-1])

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
        """The tapped maps of one token but for the scores: its attention has stored what they lack. In few launches."""
        wanted = {node.layer for node in run.tapped if run.decode and self.is_map_of_scores(node)}
        of = sorted(layer for layer in layers if layer is not None and layer in wanted)
        alike: list[tuple[int, int]] = []  # first layer and number of neighbours with one window
        for layer in of:
            first, count = alike[-1] if alike else (layer, 0)
            if layer == first + count and self.config.window(layer) == self.config.window(first):
                alike[-1:] = [(first, count + 1)]
            else:
                alike.append((layer, 1))
        return [self._maps_of_layers(first, count, run) for first, count in alike]

    def _maps_of_layers(self, first: int, count: int, run: Pass) -> Launch:
        arguments = args.SoftmaxMaps(
            self.storage.token_maps(first), self.storage.states(first), self.storage.step, self.config.heads,
            run.map_stride, self.storage.map_layer_stride, self.config.window(first), self.model.config.attn_softcap,
        )  # fmt: skip
        return self.launches.softmax_maps(arguments, count)

    def is_map_of_scores(self, node: Node) -> bool:
        """Whether `node` is an attention map that is made of the scores."""
        return self.graph[node.stage].is_attention_map and self.op(node) is not Op.SCORES

    def values_read(self, node: Node) -> bool:
        """Whether a matrix product reads `node` in float32."""
        readers = self._readers.get(node, [])
        return any(self.mode is Mode.EXACT or weight.type not in Q8_TYPES for weight in readers)

    def q8_read(self, node: Node) -> bool:
        """Whether a matrix product reads `node` in Q8_1."""
        readers = self._readers.get(node, [])
        return self.mode is Mode.Q8 and any(weight.type in Q8_TYPES for weight in readers)

    def given(self, node: Node) -> list[Node]:
        """What the sum `node` adds to the residual, back to the product or sum that its own launch makes of it."""
        found = [self.source(node, 1)]
        while self.op(found[-1]) in (Op.RMS_NORM, Op.BIAS, Op.COMBINE_EXPERTS):
            found.append(self.source(found[-1]))
        return found

    def norm_behind(self, node: Node, run: Pass) -> Node | None:
        """The norm of `node` that is made in the launch which makes `node`: of one token, where that can be."""
        if not run.decode or self.op(node) is not Op.ADD:
            return None
        of_product = self.op(self.source(node, 1)) is Op.MATMUL
        fits = not of_product or self.graph[node.stage].width <= WIDEST_NORM_BEHIND
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
            Op.POSITION_SCALE: later,
            Op.SCORES: self._heads,
            Op.SOFTCAP: self._softcap,
            Op.SOFTMAX: later,
            Op.ATTEND: self._attend,
            Op.ADD: self._add,
            Op.SILU: later,
            Op.GELU: later,
            Op.MULTIPLY: self._feed_forward,
            Op.SWIGLU_OAI: self._feed_forward,
            Op.ROUTER_SOFTMAX: later,
            Op.SIGMOID: later,
            Op.CHOOSE_EXPERTS: later,
            Op.TAKE_CHOSEN: self._route,
            Op.NORMALISE_CHOSEN: self._route,
            Op.SOFTMAX_CHOSEN: self._route,
            Op.SCALE_CHOSEN: self._route,
            Op.EXPERT_MATMUL: later,
            Op.EXPERT_BIAS: later,
            Op.COMBINE_EXPERTS: self._combine,
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
        scale = self.low.model.config.embedding_scale
        arguments = args.Embed(table, self.storage.tokens, self.places.of(node), scale)
        return [self.low.launches.embed(arguments, self.run.tokens)]

    def _norm(self, node: Node) -> list[Launch]:
        if node in self.low.in_sums or self.low.norm_behind(self.low.source(node), self.run) is not None:
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
            split = self._split(matrices.values())
            together = args.ProductsOfPrompt(first, second, third, x, 0, 0, tokens, stride, args.Sorted(), split)
            return [self.low.launches.matmul_q8(together)]
        return [self._product(matrix, x, tokens, stride, product=place) for place, matrix in matrices.items()]

    def _split(self, matrices: Collection[args.Matrix]) -> args.SplitColumns:
        """How the columns of these matrices, which go together, are split among blocks."""
        tiles, columns = sum(-(-matrix.rows // 128) for matrix in matrices), next(iter(matrices)).columns
        return self.storage.split(split_turns(tiles, columns))

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
            return launches.matmul_q8(
                args.ProductsOfPrompt(
                    only, none, none, x, residual, total, tokens, stride, args.Sorted(), self._split([matrix])
                )
            )
        of_all = matrix, x, residual, product, total, tokens, stride
        if self.run.decode:
            return launches.product_of_one(args.ProductOfOne(*of_all, self._norm_arguments(norm)))
        return launches.product(args.Product(*of_all))

    def _norm_arguments(self, node: Node | None) -> args.Norm:
        if node is None:
            return args.Norm()
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

    def _softcap(self, node: Node) -> list[Launch]:
        """The softcap of logits; that of scores is made with the attention."""
        if not self.graph[node.stage].holds_logits or not self.run.wanted:
            return []
        x, cap = self.places.of(self.low.source(node)), self.low.model.config.logit_softcap
        count = self.run.wanted * self.graph[node.stage].width
        return [self.low.launches.softcap(args.Softcap(x, self.places.of(node), count, cap))]

    def _heads(self, scores: Node) -> list[Launch]:
        """Q, K and V, biases and norms, RoPE, and the keys and values put into the cache."""
        q_turned, k_turned = self.graph.inputs(scores)
        q_scaled = q_turned if self.low.op(q_turned) is Op.POSITION_SCALE else None
        if q_scaled is not None:
            q_turned = self.low.source(q_scaled)
        heads = self._head_arguments(scores.layer, q_turned, k_turned)
        if q_scaled is not None:
            heads.factors, heads.q_scaled = self.storage.factors, self.places.of(q_scaled)
            heads.q_turned = self._tap(q_turned)
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
            turns=storage.turns(layer), key_cache=storage.keys(layer), value_cache=storage.values(layer),
            q_turned=self.places.of(q_turned), k_turned=self._tap(k_turned), epsilon=self.low.model.config.norm_epsilon,
            heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim, context=storage.context,
            rotated=config.rotated if config.has_rope(layer) else 0,
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
        attention, tapped = self._attention_arguments(node), self._tapped_maps(node)
        q8, step = self._q8_of(node), self.storage.step
        if not self.run.decode:
            arguments = args.AttentionAt(attention, step)
            return [self.low.launches.attend_prompt(arguments, self.run.tokens), *self._rounded(node, q8)]
        assert node.layer is not None
        config, storage = self.config, self.storage
        in_one = config.heads // config.kv_heads * config.head_dim % 32 == 0
        if in_one:
            attention.q8 = q8
        states = storage.states(node.layer) if any(map(self.low.is_map_of_scores, tapped)) else 0
        one = args.AttendOne(attention, step, storage.partial, storage.counters, states)
        outside = [args.AttentionAt(attention, step)] if tapped and attention.window else []
        return [
            *map(self.low.launches.scores_before_window, outside),
            self.low.launches.attend_one(one, self.low.splits),
            *([] if in_one else self._rounded(node, q8)),
        ]

    def _tapped_maps(self, node: Node) -> list[Node]:
        """The tapped attention maps of the layer of `node`."""
        return [one for one in self.run.tapped if one.layer == node.layer and self.graph[one.stage].is_attention_map]

    def _attention_arguments(self, node: Node) -> args.Attention:
        softmax = self.low.source(node)
        scores, capped = self.low.source(softmax), 0
        if self.low.op(scores) is Op.SOFTCAP:
            scores, capped = self.low.source(scores), self._tap(scores)
        assert node.layer is not None
        config, storage, model = self.config, self.storage, self.low.model.config
        # Each run of keys stores its scores; the maps that are made of them need those of all runs.
        keeps_scores, of_prompt = bool(self._tapped_maps(node)), not self.run.decode
        return args.Attention(
            q=self.places.of(self.low.source(scores)), key_cache=storage.keys(node.layer),
            value_cache=storage.values(node.layer), scores=self.places.of(scores) if keeps_scores else 0,
            capped=capped if of_prompt else 0, softmax=self._tap(softmax) if of_prompt else 0,
            out=self.places.of(node), sinks=self._vector(softmax) if config.sinks else 0,
            heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim, context=storage.context,
            map_stride=self.run.map_stride, half_cache=self.low.half, window=config.window(node.layer),
            scale=model.score_scale, softcap=model.attn_softcap,
        )  # fmt: skip

    def _rounded(self, node: Node, q8: args.Q8Output) -> list[Launch]:
        """Rounds `node` to Q8_1 where it is read so and its own kernel does not round it."""
        if not q8.levels:
            return []
        blocks = self.run.tokens * self.graph[node.stage].width // 32
        return [self.low.launches.quantize(args.Quantize(self.places.of(node), q8, blocks))]

    def _add(self, node: Node) -> list[Launch]:
        """What a block gives added to the residual, and of one token the norm of their sum."""
        given, norm = self.low.given(node)[-1], self.low.norm_behind(node, self.run)
        if given == self.low.source(node, 1) and self.low.op(given) is Op.MATMUL:
            residual = self.places.of(self.low.source(node))
            places = {"product": self._tap(given), "residual": residual, "total": self.places.of(node)}
            return [self._product_of(given, **places, norm=norm)]
        product = [self._product_of(given, product=self.places.of(given))] if self.low.op(given) is Op.MATMUL else []
        arguments = args.AddToResidual(self._given_arguments(node), self._norm_arguments(norm))
        return [*product, self.low.launches.add_to_residual(arguments, self.run.tokens)]

    def _product_of(self, node: Node, **places: Any) -> Launch:
        """The product that makes `node`; see `_product`."""
        (matrix,) = self._matrices(node)
        return self._product(matrix, self._activations(self.low.source(node)), self.run.tokens, matrix.rows, **places)

    def _given_arguments(self, node: Node) -> args.Given:
        *made, x = self.low.given(node)
        given = args.Given(
            x=self.places.of(x), residual=self.places.of(self.low.source(node)), sum=self.places.of(node),
            columns=self.graph[node.stage].width, epsilon=self.low.model.config.norm_epsilon,
        )  # fmt: skip
        for one in made:
            if self.low.op(one) is Op.BIAS:
                given.bias, given.biased = self._vector(one), self._tap(one)
            elif self.low.op(one) is Op.COMBINE_EXPERTS:
                given.shares, given.experts = self.places.of(self.low.source(one, 1)), self.config.experts_used
                given.combined = self._tap(one)
            else:
                given.weight, given.normed = self._vector(one), self._tap(one)
        return given

    def _feed_forward(self, node: Node) -> list[Launch]:
        active, up = self.graph.inputs(node)
        gate = active if self.low.op(node) is Op.SWIGLU_OAI else self.low.source(active)
        out = args.FeedForward(
            active=self._tap(active) if active != gate else 0, out=self._stored(node), q8=self._q8_of(node),
            activation=_ACTIVATIONS[self.low.op(node) if active == gate else self.low.op(active)],
        )  # fmt: skip
        if self.low.op(gate) in (Op.EXPERT_MATMUL, Op.EXPERT_BIAS):
            return self._expert_gate_up(gate, up, out)
        (gate_matrix,), (up_matrix,) = self._matrices(gate), self._matrices(up)
        source, width = self.low.source(gate), self.graph[node.stage].width
        if self.run.decode:
            out.gate, out.up = self._tap(gate), self._tap(up)
            x = self._activations(source)
            return [self.low.launches.gate_up(args.GateUp(gate_matrix, up_matrix, x, out))]
        gates, ups = self.places.of(gate), self.places.of(up)
        blocks = self.run.tokens * width // 32
        return [
            *self._products({gates: gate_matrix, ups: up_matrix}, source, width),
            self.low.launches.activate(args.Activate(gates, ups, out, blocks)),
        ]

    def _route(self, node: Node) -> list[Launch]:
        """The product that gives the logits of a router, and all that is made of them up to the weights `node`."""
        if node not in self.low.shares:
            return []
        low, of = self.low, self.places.of
        router = args.Routing(
            experts=self.config.experts, used=self.config.experts_used, scale=low.model.config.expert_weights_scale
        )
        if (groups := self.config.expert_groups) is not None:
            router.groups, router.groups_used = groups.count, groups.used
            router.two_largest = int(groups.score is GroupScore.TWO_LARGEST)
        if low.op(node) is Op.SCALE_CHOSEN:
            router.scaled, node = of(node), low.source(node)
        if low.op(node) is not Op.TAKE_CHOSEN:
            router.normalisation = _NORMALISATIONS[low.op(node)]
            router.normalised, node = of(node), low.source(node)
        weighted, choice = self.graph.inputs(node)
        chosen_by, logits = low.source(choice), low.source(weighted)
        router.taken, router.router, router.indices, router.logits = map(of, (node, weighted, choice, logits))
        router.kind = _ROUTERS[low.op(weighted)]
        if low.op(weighted) is Op.BIAS:
            router.bias = self._vector(weighted)
        if chosen_by != weighted:
            router.choice_bias, router.biased = self._vector(chosen_by), of(chosen_by)
        product = self._product_of(logits, product=of(logits))
        return [product, low.launches.route(args.Route(router), self.run.tokens), *self._sort(choice)]

    def _sort(self, choice: Node) -> list[Launch]:
        """The slots of a prompt in the order of the experts that they name, where a product of theirs wants that."""
        low, experts = self.low, self.config.experts
        products = [
            matrix
            for node in self.graph.nodes
            if node.layer == choice.layer and low.op(node) is Op.EXPERT_MATMUL
            for matrix in self._matrices(node)
        ]
        if not any(map(self._by_expert, products)):
            return []
        slots = self.run.tokens * self.config.experts_used
        arguments = args.SortSlots(
            self.places.of(choice), self.storage.sorted(), slots, experts, expert_tiles(slots, experts)
        )  # fmt: skip
        return [low.launches.sort_slots(arguments)]

    def _by_expert(self, matrix: args.Matrix) -> bool:
        """Whether all tokens of an expert are multiplied with `matrix` together, on tensor cores."""
        return self._on_tensor_cores(matrix) and not self.run.few_of_expert

    def _sorted_products(
        self, x: args.Activations, parts: Sequence[args.MatrixOfPrompt], rows: int, of_token: int
    ) -> Launch:  # fmt: skip
        """Products of one input with `rows` rows of each expert; `of_token` slots have the same row of `x`."""
        slots = self.run.tokens * self.config.experts_used
        first, second = (*parts, args.MatrixOfPrompt())[:2]
        arguments = args.ProductsOfPrompt(
            first, second, args.MatrixOfPrompt(), x, 0, 0, slots, rows, self.storage.sorted(rows, of_token),
            args.SplitColumns(turns=-(-first.w.columns // 128)),
        )  # fmt: skip
        return self.low.launches.expert_matmul_q8(arguments, self.config.experts)

    def _chosen(self, product: Node) -> args.Chosen:
        """The experts whose `product` is made."""
        width, used = self.graph[product.stage].width, self.config.experts_used
        return args.Chosen(indices=self.places.of(self.low.source(product, 1)), rows=width // used, used=used)

    def _expert_gate_up(self, gate: Node, up: Node, out: args.FeedForward) -> list[Launch]:
        chosen, places = self._chosen(gate), (self.places.of(gate), self.places.of(up))
        out.gate, out.up = self._tap(gate), self._tap(up)
        if self.low.op(gate) is Op.EXPERT_BIAS:
            chosen.gate_bias, chosen.up_bias = self._vector(gate), self._vector(up)
            gate, up = self.low.source(gate), self.low.source(up)
            chosen.gate_product, chosen.up_product = self._tap(gate), self._tap(up)
        (gate_matrix,), (up_matrix,) = self._matrices(gate), self._matrices(up)
        x = self._activations(self.low.source(gate))
        if self._by_expert(gate_matrix) and self._by_expert(up_matrix):
            parts = [args.MatrixOfPrompt(gate_matrix, places[0]), args.MatrixOfPrompt(up_matrix, places[1])]
            if chosen.gate_bias:
                parts = [
                    args.MatrixOfPrompt(gate_matrix, chosen.gate_product, chosen.gate_bias, places[0]),
                    args.MatrixOfPrompt(up_matrix, chosen.up_product, chosen.up_bias, places[1]),
                ]
            out.gate = out.up = 0
            blocks = self.run.tokens * chosen.used * chosen.rows // 32
            return [
                self._sorted_products(x, parts, chosen.rows, chosen.used),
                self.low.launches.activate(args.Activate(*places, out, blocks)),
            ]
        arguments = args.ExpertGateUp(gate_matrix, up_matrix, x, out, chosen)
        return [self.low.launches.expert_gate_up(arguments, self.run.tokens)]

    def _combine(self, node: Node) -> list[Launch]:
        """Down of the experts, and their sum unless the launch makes it that adds it to the residual."""
        down, shares = self.graph.inputs(node)
        launches = [self._expert_down(down)]
        if node not in self.low.in_sums:
            given = args.Given(
                x=self.places.of(down), shares=self.places.of(shares), combined=self.places.of(node),
                columns=self.graph[node.stage].width, experts=self.config.experts_used,
            )  # fmt: skip
            launches.append(self.low.launches.add_to_residual(args.AddToResidual(given, args.Norm()), self.run.tokens))
        return launches

    def _expert_down(self, down: Node) -> Launch:
        chosen, out = self._chosen(down), args.ExpertOutput(product=self.places.of(down))
        if self.low.op(down) is Op.EXPERT_BIAS:
            biased, down = down, self.low.source(down)
            out = args.ExpertOutput(self._tap(down), self._vector(biased), self.places.of(biased))
        (matrix,) = self._matrices(down)
        x = self._activations(self.low.source(down))
        if self._by_expert(matrix):
            part = args.MatrixOfPrompt(matrix, out.product, out.bias, out.biased)
            return self._sorted_products(x, [part], chosen.rows, 1)
        return self.low.launches.expert_down(args.ExpertDown(matrix, x, chosen, out), self.run.tokens)


_ROUTERS: Mapping[Op, int] = MappingProxyType({Op.ROUTER_SOFTMAX: 0, Op.SIGMOID: 1, Op.BIAS: 2})
_NORMALISATIONS: Mapping[Op, int] = MappingProxyType({Op.NORMALISE_CHOSEN: 1, Op.SOFTMAX_CHOSEN: 2})
"""Numbers of experts.cu."""

_ACTIVATIONS: Mapping[Op, int] = MappingProxyType({Op.SILU: 0, Op.GELU: 1, Op.SWIGLU_OAI: 2})
"""Numbers of activation.cuh."""
