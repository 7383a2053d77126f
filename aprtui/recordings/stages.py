"""What a node is in a model: its layer and stage, as far as the names that the engine gives can tell.

Of ggml's ops, the weight that a node consumes says most, then its own name: `aprtui.oracle.llamacpp_stages`. Of
PyTorch's, the module does that it runs in. Names that the recording itself states come before either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aprtui.oracle.llamacpp_stages import ON_THE_WAY, StagePlace, StagePlaces
from aprtui.recordings.format import OpGraph, OpNode, RootKind
from aprtui.trace.graph import Node, StageGraph

_WEIGHT = re.compile(r"(?:[a-z]+\.)?blk\.(\d{1,6})\..*")
_NAMED = re.compile(r"(.*?)-(\d{1,6})(?: .*)?")
_MODULE = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d{1,6})(?:\.(.*))?")

MODULES: Mapping[str, str] = MappingProxyType(
    {
        "embed_tokens": "embedding", "norm": "final_norm", "lm_head": "lm_head", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "o_proj": "attn_out", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
        "down_proj": "ffn_out", "act_fn": "ffn_silu", "self_attn": "attention", "q_norm": "q_norm", "k_norm": "k_norm",
    }
)  # fmt: skip
"""Stages by the last name of a module's path in transformers."""


@dataclass(frozen=True, slots=True)
class NodeName:
    """`layer` and `stage` are None where the names do not tell; `text` is how the engine calls the node."""

    layer: int | None
    stage: str | None
    text: str

    def __str__(self) -> str:
        if self.stage is None:
            return self.text
        place = self.stage if self.layer is None else f"layer {self.layer} {self.stage}"
        return f"{place} ({self.text})" if self.text else place


class NodeNames:
    """The names of the nodes of `graph`. `stated` are stages by patterns of names of nodes, in which `{layer}` stands
    for a number; `places` those of a model that is known."""

    def __init__(
        self, graph: OpGraph, stated: Mapping[str, str] | None = None, places: StagePlaces | None = None
    ) -> None:
        self.graph = graph
        self._stated = [(_pattern(pattern), stage) for pattern, stage in (stated or {}).items()]
        self._places = places or StagePlaces.of_names(
            [root.name for root in graph.roots if root.kind is RootKind.WEIGHT],
            [tensor.name for tensor in graph.tensors],
        )

    @property
    def stages(self) -> StageGraph:
        """The stages that the nodes may be."""
        return self._places.graph

    def places(self, node: OpNode) -> list[StagePlace]:
        """The stages that a node of ggml's ops makes or takes in, or parts of them."""
        if stated := self._stated_node(node):
            return [StagePlace(stated)] if stated.stage in self.stages else []
        return self._places.find_named(node.op, node.name, self._made_from(node))

    def name(self, node: OpNode) -> NodeName:
        """Where a node stands in its model."""
        places = [place for place in self.places(node) if not place.takes_input]
        found = self._stated_node(node) or (places[0].node if places else None)
        if found is not None:
            return NodeName(found.layer, found.stage, node.name)
        if module := _MODULE.fullmatch(node.name):
            return NodeName(int(module[1]), MODULES.get((module[2] or "").rpartition(".")[2]), node.name)
        if named := _NAMED.fullmatch(node.name):
            return NodeName(int(named[2]), ON_THE_WAY.get(named[1]), node.name)
        if node.op.startswith("aten"):
            return NodeName(None, MODULES.get(node.name.rpartition(".")[2]), node.name)
        layers = (int(match[1]) for weight in weights_of(self.graph, node) if (match := _WEIGHT.fullmatch(weight)))
        return NodeName(next(layers, None), None, node.name)

    def _stated_node(self, node: OpNode) -> Node | None:
        for pattern, stage in self._stated:
            if match := pattern.fullmatch(node.name):
                return Node(int(match["layer"]) if "layer" in pattern.groupindex else None, stage)
        return None

    def _made_from(self, node: OpNode) -> Iterator[tuple[str, str]]:
        for source in node.sources:
            if source is not None:
                tensor = self.graph.tensors[source]
                root = self.graph.roots[tensor.root].name
                is_weight = self.graph.roots[tensor.root].kind is RootKind.WEIGHT
                yield root if is_weight else tensor.name, root


def _pattern(text: str) -> re.Pattern[str]:
    head, layer, tail = text.partition("{layer}")
    return re.compile(re.escape(head) + (r"(?P<layer>\d{1,6})" + re.escape(tail) if layer else ""))


def weights_of(graph: OpGraph, node: OpNode) -> list[str]:
    """The names of the weights that a node reads."""
    roots = [graph.roots[graph.tensors[source].root] for source in node.sources if source is not None]
    return [root.name for root in roots if root.kind is RootKind.WEIGHT and root.name]
