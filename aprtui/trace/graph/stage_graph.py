"""The stages of a model as a graph: nodes of every layer, and what each is made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from types import MappingProxyType

from aprtui.trace.graph.attention import LATENT_STAGES
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.decoder import blocks_of, decoder_stages
from aprtui.trace.graph.ops import KEEP_ORDER, Op, Part, Scope
from aprtui.trace.graph.stage import ENTRY, ROUTER, Input, Node, Stage, TokenMixer


@dataclass(frozen=True, slots=True)
class LayerKind:
    """In what a layer differs from others of its model: how many positions a query sees (0: all), RoPE, experts, and
    whether it has a recurrence in place of attention."""

    window: int
    rope: bool
    experts: bool
    recurrent: bool = False

    def differences(self) -> tuple[tuple[object, str, str], ...]:
        """For each of those: what it is, the mark of it (a space for what is usual), and words."""
        return (
            (True, "o", str(TokenMixer.RECURRENCE)) if self.recurrent else (False, " ", str(TokenMixer.ATTENTION)),
            (self.window, "~", f"a window of {self.window} positions") if self.window else (0, " ", "all positions"),
            (True, " ", "RoPE") if self.rope else (False, "-", "no RoPE"),
            (True, "+", "experts") if self.experts else (False, " ", "dense"),
        )


class StageGraph:
    """The stages of a model as a directed acyclic graph, in execution order."""

    def __init__(self, stages: Iterable[Stage], layers: int, config: GraphConfig | None) -> None:
        self.stages = tuple(stages)
        self.layers = layers
        self.config = config
        self._by_name = {stage.name: stage for stage in self.stages}

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Stage:
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Stage names in execution order."""
        return tuple(self._by_name)

    @property
    def has_latent_attention(self) -> bool:
        """Whether some of its stages are those of latent attention."""
        return not LATENT_STAGES.isdisjoint(self._by_name)

    @cached_property
    def row_widths(self) -> Mapping[str, int]:
        """Widths of the stages that hold channels of all tokens: all but attention maps, logits and states."""
        return MappingProxyType(
            {s.name: s.width for s in self.stages if not s.is_attention_map and not s.of_last_position}
        )

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes in execution order: layer by layer, then the stages of the model."""
        return tuple(self._walk())

    @cached_property
    def order(self) -> Mapping[Node, int]:
        """Position of each node in execution order."""
        return MappingProxyType({node: index for index, node in enumerate(self.nodes)})

    @cached_property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer; empty where nothing is known of them."""
        config = self.config
        if config is None:
            return ()
        return tuple(
            LayerKind(
                config.window(layer),
                config.has_rope(layer),
                Node(layer, ROUTER) in self.order,
                config.mixer(layer) is TokenMixer.RECURRENCE,
            )
            for layer in range(self.layers)
        )

    @cached_property
    def layer_marks(self) -> tuple[str, ...]:
        """A character for the kind of each layer, where layers differ: `o` a recurrence, `~` a window, `-` no RoPE, `+`
        experts, `*` several of them."""
        marks = ("".join(mark for _, mark, _ in found if mark != " ") for found in self._differences)
        return tuple(" " if not found else found if len(found) == 1 else "*" for found in marks)

    @cached_property
    def _differences(self) -> tuple[tuple[tuple[object, str, str], ...], ...]:
        """Of each layer, what layers of this model differ in: as `LayerKind.differences`."""
        each = [kind.differences() for kind in self.layer_kinds]
        mixed = [len({value for value, _, _ in column}) > 1 for column in zip(*each, strict=True)]
        return tuple(tuple(compress(found, mixed)) for found in each)

    def kind_words(self, layer: int | None) -> str:
        """The kind of a layer in words; empty where all are alike."""
        if layer is None or layer >= len(self.layer_kinds):
            return ""
        return ", ".join(words for _, _, words in self._differences[layer])

    def _walk(self) -> Iterator[Node]:
        for layer in range(self.layers):
            for stage in self.stages:
                if self.config is not None and not self.config.has_stage(stage, layer):
                    continue
                if stage.scope is Scope.LAYER or (stage.scope is Scope.FIRST_LAYER and layer == 0):
                    yield Node(layer, stage.name)
        for stage in self.stages:
            if stage.scope is Scope.MODEL:
                yield Node(None, stage.name)

    @cached_property
    def rope_parts(self) -> Mapping[str, frozenset[Part]]:
        """Stages whose channels lie in the order of the RoPE layout, with the parts of them that do.

        Those are the rotated stages and what they are made from, back to the matrix product whose rows set the order,
        or to where a graph from names lacks what lies between.
        """
        found: dict[str, frozenset[Part]] = {}
        pending = [(stage, Part.WHOLE) for stage in self.stages if stage.op in (Op.ROPE, Op.POSITION_SCALE)]
        while pending:
            stage, part = pending.pop()
            found[stage.name] = found.get(stage.name, frozenset()) | {part}
            if stage.op is not Op.MATMUL:
                sources = [(self[entry.stage], entry.part) for entry in stage.inputs if not entry.previous_layer]
                pending += [
                    (source, part if of is Part.WHOLE else of) for source, of in sources if source.op in KEEP_ORDER
                ]
        return MappingProxyType(found)

    def passes_through(self, node: Node) -> bool:
        """Whether `node` is its input as it is, as queries and keys are in a layer without RoPE."""
        return self.config is not None and self[node.stage].op is Op.ROPE and not self.config.has_rope(node.layer)

    def siblings(self, name: str) -> tuple[Stage, ...]:
        """Other stages of the same op, inputs, width and kind of layer as stage `name`, as gate and up are."""

        def kind(stage: Stage) -> tuple[object, ...]:
            return stage.op, stage.inputs, stage.width, stage.mixer, stage.block

        return tuple(stage for stage in self.stages if kind(stage) == kind(self[name]) and stage.name != name)

    def inputs(self, node: Node) -> tuple[Node, ...]:
        """The nodes that `node` is computed from, one for each of its `entries`."""
        return tuple(source for source, _ in self._sources(node))

    def entries(self, node: Node) -> tuple[Input, ...]:
        """Those inputs of the stage of `node` that its layer has.

        In a graph from names, layer 0 has no inputs from a layer before if the embedding was not captured, and stages
        of the model have none where no layer was.
        """
        return tuple(entry for _, entry in self._sources(node))

    def _sources(self, node: Node) -> Iterator[tuple[Node, Input]]:
        for entry in self[node.stage].inputs:
            source = self._resolve(node, entry)
            if source.stage in self and source.layer != -1 and self._is_in_layer(source):
                yield source, entry

    def _is_in_layer(self, node: Node) -> bool:
        """Whether layers of that kind have the stage; any layer has, where nothing is known of kinds."""
        return self.config is None or node.layer is None or self.config.has_stage(self[node.stage], node.layer)

    def _resolve(self, node: Node, entry: Input) -> Node:
        if self[entry.stage].scope is Scope.MODEL:
            return Node(None, entry.stage)
        if node.layer is None:
            return Node(self.layers - 1, entry.stage)
        if not entry.previous_layer:
            return Node(node.layer, entry.stage)
        return Node(node.layer - 1, entry.stage) if node.layer else Node(0, ENTRY)


def graph_for(config: GraphConfig) -> StageGraph:
    """The stage graph of a decoder with the dimensions and options of `config`."""
    return StageGraph(decoder_stages(config, *blocks_of(config)), config.layers, config)
