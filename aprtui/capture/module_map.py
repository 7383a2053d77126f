"""Maps of users: which stages the modules of their own model take in and give."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aprtui.errors import UsageError
from aprtui.trace.graph.attention import LATENT_STAGES
from aprtui.trace.graph.names import graph_from_names, known_names
from aprtui.trace.graph.ops import Part, Scope
from aprtui.trace.graph.stage import ENTRY, Node, canonical_name
from aprtui.trace.graph.stage_graph import StageGraph

Stages = Callable[[tuple[Any, ...], Any], Mapping[str, Any]]
"""Gives the tensors of stages from what a module was called with, and what it returned."""
ModuleMap = Mapping[str, "str | Iterable[str] | Stages"]

LAYER = "{layer}"
_INPUT = "in:"
PARTS = (Part.Q, Part.K, Part.V)


@dataclass(frozen=True, slots=True)
class MappedStage:
    """A stage at a module: what it takes in first or gives, whole or as a part of it."""

    node: Node
    takes_input: bool = False
    part: int | None = None


@dataclass(frozen=True, slots=True)
class MappedModule:
    """A module of a model, its layer, and the stages there; `function` gives them, or they are listed."""

    name: str
    layer: int | None
    stages: tuple[MappedStage, ...] = ()
    function: Stages | None = None


def mapped_modules(entries: ModuleMap, modules: Mapping[str, Any]) -> tuple[MappedModule, ...]:
    """The modules that the patterns of a map name, in the order of the model.

    Raises `UsageError` for a pattern that names none, for a stage that there is not, and for a module that stands in a
    model under two of the names.
    """
    found: list[MappedModule] = []
    for pattern, value in entries.items():
        matching = [(name, layer) for name in modules for layer in _layers(pattern, name)]
        if not matching:
            raise UsageError(f"map: {pattern!r}: the model has no such module: see model.named_modules()")
        for name, layer in matching:
            if callable(value):
                found.append(MappedModule(name, layer, function=value))
            else:
                texts = (value,) if isinstance(value, str) else tuple(value)
                found.append(MappedModule(name, layer, tuple(_stage(text, layer, pattern) for text in texts)))
    _require_whole(found)
    owners: dict[int, str] = {}
    for module in found:
        other = owners.setdefault(id(modules[module.name]), module.name)
        if other != module.name:
            raise UsageError(f"map: {other} and {module.name} are one module, whose calls cannot be told apart")
    return tuple(found)


def _require_whole(found: Iterable[MappedModule]) -> None:
    parts: dict[Node, set[int]] = {}
    for stage in (stage for module in found for stage in module.stages):
        if stage.part is not None:
            parts.setdefault(stage.node, set()).add(stage.part)
    for node, numbers in parts.items():
        for number, part in enumerate(PARTS):
            if number not in numbers:
                raise UsageError(f"map: {node}: {node.stage}.{part} is missing, and the stage is all three parts")


def map_graph(found: Iterable[MappedModule]) -> StageGraph:
    """A graph of the stages that the map of a user lists; where it has functions, of all that there are, but those of
    latent attention only where the map lists one."""
    every = tuple(found)
    layers = 1 + max((module.layer for module in every if module.layer is not None), default=0)
    listed = {stage.node.stage for module in every for stage in module.stages}
    names = listed
    if any(module.function for module in every):
        names = set(known_names()) - (LATENT_STAGES if listed.isdisjoint(LATENT_STAGES) else frozenset())
    return graph_from_names(names, layers)


def stage_node(name: str, layer: int | None) -> Node:
    """The node of a stage at a module of `layer`. Raises `UsageError` for a name that no stage has."""
    stage = canonical_name(name)
    if stage not in known_names():
        raise UsageError(f"map: no stage is called {name!r}: use one of {', '.join(known_names())}")
    if stage == ENTRY:
        return Node(0, ENTRY)
    of_model = graph_from_names([stage], 1)[stage].scope is Scope.MODEL
    if of_model == (layer is not None):
        what = "is one of the whole model" if of_model else f"is one of a layer: write {LAYER} for its number"
        raise UsageError(f"map: stage {stage} {what}")
    return Node(layer, stage)


def _layers(pattern: str, name: str) -> Iterator[int | None]:
    """The layer that `pattern` finds in `name`, None for a pattern without one; nothing where it does not match."""
    before, placeholder, behind = pattern.partition(LAYER)
    if not placeholder:
        if pattern == name:
            yield None
    elif match := re.fullmatch(f"{re.escape(before)}([0-9]{{1,4}}){re.escape(behind)}", name):
        yield int(match.group(1))


def _stage(text: str, layer: int | None, pattern: str) -> MappedStage:
    name = text.removeprefix(_INPUT)
    stage, dot, part = name.partition(".")
    if dot and part not in PARTS:
        raise UsageError(f"map: {pattern!r}: {text!r}: expected a stage, in:STAGE, or STAGE.q, STAGE.k and STAGE.v")
    number = PARTS.index(Part(part)) if dot else None
    return MappedStage(stage_node(stage, layer), name != text, number)
