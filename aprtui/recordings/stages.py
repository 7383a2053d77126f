"""What a node is in a model: its layer and stage, as far as the names that the engine gives can tell.

Of ggml's ops, the weight that a node consumes says most, then its own name: `aprtui.oracle.llamacpp_stages`. Of
PyTorch's, the module does that it runs in. Names that the recording itself states come before either.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aprtui.errors import UsageError
from aprtui.oracle.llamacpp_stages import ON_THE_WAY, StagePlace, StagePlaces
from aprtui.recordings.format import OpGraph, OpNode, RootKind
from aprtui.trace.graph.names import graph_from_names, known_names
from aprtui.trace.graph.stage import ENTRY, Node, canonical_name
from aprtui.trace.graph.stage_graph import StageGraph

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

        known = self._places.graph
        missing = graph_from_names({stage for _, stage in self._stated if stage not in known}, known.layers)
        self.stages = StageGraph([*known.stages, *missing.stages], known.layers, known.config)
        """The stages that the nodes may be."""

    def places(self, node: OpNode) -> list[StagePlace]:
        """The stages that a node of ggml's ops makes or takes in, or parts of them."""
        if stated := self._stated_node(node):
            return [StagePlace(stated)]
        return self._places.find_named(node.op, node.name, self._made_from(node))

    def views(self) -> dict[int, list[tuple[int, StagePlace]]]:
        """For each root, the tensors that are a stage by their name and that no node makes: views of what it holds."""
        made = {output for node in self.graph.nodes for output in node.outputs}
        found: dict[int, list[tuple[int, StagePlace]]] = {}
        for index, tensor in enumerate(self.graph.tensors):
            if index not in made:
                for place in self._places.find_named("VIEW", tensor.name, ()):
                    found.setdefault(tensor.root, []).append((index, place))
        return found

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
                layer = int(match["layer"]) if "layer" in pattern.groupindex else None
                return Node(0 if stage == ENTRY else layer, stage)
        return None

    def _made_from(self, node: OpNode) -> Iterator[tuple[str, str]]:
        for source in node.sources:
            if source is not None:
                tensor = self.graph.tensors[source]
                root = self.graph.roots[tensor.root].name
                is_weight = self.graph.roots[tensor.root].kind is RootKind.WEIGHT
                yield root if is_weight else tensor.name, root


def parsed_names(texts: Iterable[str]) -> dict[str, str]:
    """Stages by patterns of names of nodes, of texts `NODE=STAGE`. Raises `UsageError`."""
    found: dict[str, str] = {}
    for text in texts:
        pattern, equals, stage = text.rpartition("=")
        name = canonical_name(stage)
        if not equals or not pattern:
            raise UsageError(f"{text!r:.80}: expected NODE=STAGE, as in 'h{{layer}}.mix=attention'")
        require_stage(name)
        if pattern.count("{layer}") > 1:
            raise UsageError(f"{text!r:.80}: {{layer}} stands there twice: once is enough")
        found[pattern] = name
    return found


def require_stage(name: str) -> None:
    """Raise `UsageError` for what is no stage, with those that are called alike."""
    if name not in known_names():
        near = difflib.get_close_matches(name, known_names(), 3) or known_names()[:6]
        raise UsageError(f"{name!r:.60} is no stage: there are {', '.join(near)}, …: docs/app.md lists them")


def _pattern(text: str) -> re.Pattern[str]:
    head, layer, tail = text.partition("{layer}")
    return re.compile(re.escape(head) + (r"(?P<layer>\d{1,6})" + re.escape(tail) if layer else ""))


def weights_of(graph: OpGraph, node: OpNode) -> list[str]:
    """The names of the weights that a node reads."""
    roots = [graph.roots[graph.tensors[source].root] for source in node.sources if source is not None]
    return [root.name for root in roots if root.kind is RootKind.WEIGHT and root.name]
