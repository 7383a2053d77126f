"""The arguments of a check: the captures, the cells in question, the model, and the parameters of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from aprtui.errors import UsageError
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.names import known_names
from aprtui.trace.graph.ops import Scope
from aprtui.trace.graph.stage import MAX_LAYERS, Node, canonical_name
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.select import ALL, parse_layers

STAGES, LAYERS, BACKENDS, DEVICES_DIFFER = "stages", "layers", "backends", "devices_differ"


@dataclass(frozen=True, slots=True)
class CheckSubject:
    """The captures and the model that falsifiers are judged on.

    `reference` is the other capture of claims about two of them. `model` is run for claims about a model; None where
    nothing may be run, as in a screen.
    """

    capture: Capture | None = None
    reference: Capture | None = None
    model: Model | None = None


@dataclass(frozen=True, slots=True)
class CheckArguments:
    """Arguments of a check: the parameters that the contract gives it, and the model that it may run.

    Reading a parameter of the wrong kind raises `UsageError`.
    """

    parameters: Mapping[str, Any]
    model: Model | None

    def require_model(self) -> Model:
        """The model to run. Raises `UsageError` where there is none."""
        if self.model is None:
            raise UsageError("no model is at hand to run: aprtui contracts check --model MODEL judges this")
        return self.model

    def number(self, name: str, default: float) -> float:
        value = self.parameters.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"check parameter {name}: {value!r:.40} is not a number: give one, as {default!r}")
        return float(value)

    def count(self, name: str, default: int, most: int) -> int:
        """A parameter that is a whole number, 1 … `most`."""
        value = self.parameters.get(name, default)
        if type(value) is not int or not 1 <= value <= most:
            raise UsageError(f"check parameter {name}: {value!r:.40}: expected a whole number, 1 … {most}")
        return value

    def text(self, name: str, default: str = "") -> str:
        value = self.parameters.get(name, default)
        if not isinstance(value, str):
            raise UsageError(f"check parameter {name}: {value!r:.40} is not a text: put it in quotes")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.parameters.get(name, default)
        if not isinstance(value, bool):
            raise UsageError(f"check parameter {name}: {value!r:.40}: expected true or false")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A parameter that is a list of texts; empty where it is missing."""
        value = self.parameters.get(name, [])
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise UsageError(f"check parameter {name}: {value!r:.60}: expected a list of texts")
        return tuple(value)

    def one_of(self, name: str, default: str, words: Sequence[str]) -> str:
        value = self.text(name, default)
        if value not in words:
            raise UsageError(f"check parameter {name}: {value!r:.40}: expected one of {', '.join(words)}")
        return value


@dataclass(frozen=True, slots=True)
class CaptureArguments(CheckArguments):
    """Arguments of a check of one capture.

    `nodes` are the captured cells in question, in execution order: those of the stages and layers that the contract
    names, or all. `names_stages` says whether it names stages.
    """

    capture: Capture
    nodes: tuple[Node, ...]
    names_stages: bool


@dataclass(frozen=True, slots=True)
class PairArguments(CaptureArguments):
    """Arguments of a check of a capture against a reference; both hold every one of `nodes`."""

    reference: Capture


def named_stages(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The stage names and globs of parameter `stages`, in its order; empty where it is missing. Raises `UsageError`."""
    value = parameters.get(STAGES)
    entries = value.split(",") if isinstance(value, str) else [] if value is None else value
    if not isinstance(entries, list) or not all(isinstance(entry, str) and entry.strip() for entry in entries):
        raise UsageError(f"check parameter stages: {value!r:.60}: expected names of stages, as [ffn_gate, ffn_up]")
    return tuple(canonical_name(entry) for entry in entries)


def known_stages(names: Sequence[str]) -> tuple[str, ...]:
    """The known stages that match one of `names`, which may be globs, in execution order."""
    return tuple(stage for stage in known_names() if any(fnmatchcase(stage, name) for name in names))


def named_layers(parameters: Mapping[str, Any]) -> frozenset[int] | None:
    """The layers of parameter `layers` (`0..2`, `3`, `[0, 3]`); None for `all` and where it is missing.

    Raises `UsageError`.
    """
    value = parameters.get(LAYERS)
    if value is None or value == ALL:
        return None
    text = ",".join(str(entry) for entry in value) if isinstance(value, list) else str(value)
    return parse_layers(text, MAX_LAYERS)


def wanted_nodes(graph: StageGraph, parameters: Mapping[str, Any]) -> tuple[tuple[Node, ...], tuple[str, ...]]:
    """The nodes of `graph` that the parameters select, in execution order, and the stages and layers it does not have.

    `layers` selects among the stages of layers; stages of the whole model are always selected. Raises `UsageError`.
    """
    names, layers = named_stages(parameters), named_layers(parameters)
    missing = [name for name in names if not any(fnmatchcase(stage, name) for stage in graph.names)]
    missing += [f"layer {layer}" for layer in sorted(layers or ()) if layer >= graph.layers]
    nodes = tuple(
        node
        for node in graph.nodes
        if (not names or any(fnmatchcase(node.stage, name) for name in names))
        and (layers is None or graph[node.stage].scope is Scope.MODEL or node.layer in layers)
    )
    return nodes, tuple(missing)


def layers_text(parameters: Mapping[str, Any]) -> str:
    """The layers as written, for messages."""
    return str(parameters.get(LAYERS, ALL))
