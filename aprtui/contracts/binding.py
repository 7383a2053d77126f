"""The stages and layers that a falsifier is about: those of its check, else of its `binds_to`, else of its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from aprtui.contracts.checks.arguments import known_stages, named_layers, named_stages
from aprtui.contracts.documents.document import CheckCall, Document, Falsifier
from aprtui.errors import UsageError
from aprtui.trace.graph.names import known_names
from aprtui.trace.graph.ops import Scope
from aprtui.trace.graph.stage import ALIASES, Node, canonical_name
from aprtui.trace.graph.stage_graph import StageGraph


@dataclass(frozen=True, slots=True)
class Binding:
    """The stages that a falsifier is about, in execution order, and its layers; None where it names no layer.

    `inferred` says that the stages were read from its text, which may mention them for another reason.
    """

    stages: tuple[str, ...]
    layers: frozenset[int] | None
    inferred: bool

    def nodes(self, graph: StageGraph) -> tuple[Node, ...]:
        return tuple(
            node
            for node in graph.nodes
            if node.stage in self.stages
            and (self.layers is None or graph[node.stage].scope is Scope.MODEL or node.layer in self.layers)
        )


def bind(document: Document, falsifier: Falsifier, check: CheckCall | None) -> Binding:
    """The stages and layers of `falsifier`, which `check` judges."""
    if check is not None:
        try:
            stages = known_stages(named_stages(check.parameters))
            if stages:
                return Binding(stages, named_layers(check.parameters), inferred=False)
        except UsageError:
            pass  # evaluation reports what is wrong with the parameters
    stages = known_stages([canonical_name(name) for name in falsifier.binds_to])
    if stages:
        return Binding(stages, None, inferred=False)
    equations = [equation.formula for equation in document.equations if equation.name in falsifier.binds_to]
    own = f"{falsifier.rule}\n{falsifier.name}\n{falsifier.prediction}\n{falsifier.test}"
    stages = _mentioned(own) or _mentioned("\n".join(equations))
    layers = frozenset(int(number) for number in _LAYER.findall(own))
    return Binding(stages, layers or None, inferred=True)


def _mentioned(text: str) -> tuple[str, ...]:
    found = {_spellings()[word] for word in re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text) if word in _spellings()}
    found |= _words().intersection(_WORD_AS_NAME.findall(text))
    return tuple(stage for stage in known_names() if stage in found)


@cache
def _spellings() -> dict[str, str]:
    """Names that are no English words, as files spell them (`ffn_gate`) and as code does (`FfnGate`)."""
    names = {name: name for name in known_names()} | dict(ALIASES)
    spelt = {name: stage for name, stage in names.items() if "_" in name}
    spelt |= {"".join(part.capitalize() for part in name.split("_")): stage for name, stage in names.items()}
    return {spelling: stage for spelling, stage in spelt.items() if spelling.lower() not in _words()}


@cache
def _words() -> frozenset[str]:
    """Names that are English words too: `embedding`, `attention`."""
    return frozenset(name for name in known_names() if "_" not in name)


_WORD_AS_NAME = re.compile(r"(?:(?<=[`/.,\[({'\"])|(?<=--save-tensor ))([a-z]+)(?=[`,\])}'\"]|\.bin)")
"""An English word counts as a stage only between the marks of code: `embedding.bin`, `attention`, [a,attention]."""

_LAYER = re.compile(r"\blayers?[-_ \[]+(\d{1,4})\b", re.IGNORECASE)
"""A layer that is named alone, as `layer 3`, `layer-0/`, `layer[3]`."""
