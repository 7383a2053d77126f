"""Faults as users write them, and as engines make them: `layer=2,stage=ffn_gate,kind=scale,magnitude=0.5`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aprtui.engine.faults.kinds import KINDS, applies
from aprtui.engine.faults.setting import Array, FaultSetting
from aprtui.engine.protocol import Mode, NodeCall
from aprtui.engine.rounding import ARITHMETIC
from aprtui.errors import UsageError
from aprtui.model.model import Model
from aprtui.trace.graph.stage import Node
from aprtui.trace.select import node_of

_COUNTS = frozenset({"token", "channel", "head", "count", "seed"})
_POSITIVE = frozenset({"limit", "epsilon", "factor"})


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    node: Node
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        layer = "" if self.node.layer is None else f"layer={self.node.layer},"
        more = "".join(
            f",{name}={int(value) if value == int(value) else repr(value)}" for name, value in self.parameters.items()
        )
        return f"{layer}stage={self.node.stage},kind={self.kind}{more}"


def parse_fault(text: str, model: Model) -> Fault:
    """The fault that `text` asks for. Raises `UsageError`, which lists what there is."""
    pieces = [_field(piece, text) for piece in text.split(",")]
    fields = dict(pieces)
    if len(fields) < len(pieces):
        raise UsageError(f"--inject {text!r}: a name is given twice: give each once")
    kind = fields.pop("kind", "")
    if kind not in KINDS:
        kinds = "; ".join(f"{name}: {found.imitates}" for name, found in KINDS.items())
        raise UsageError(f"--inject {text!r}: kind {kind!r} is not known: there are {kinds}")
    node = node_of(fields, model.graph, f"--inject {text!r}")
    if not applies(kind, model, node):
        stages = dict.fromkeys(found.stage for found in model.graph.nodes if applies(kind, model, found))
        where = f"applies at {', '.join(stages)}" if stages else "applies nowhere in this model"
        raise UsageError(f"--inject {text!r}: {kind} does not apply at {node.stage}: it {where}")
    unknown = fields.keys() - set(KINDS[kind].parameters)
    if unknown:
        takes = ", ".join(KINDS[kind].parameters) or "no more"
        raise UsageError(f"--inject {text!r}: {kind} takes no {min(unknown)!r}: it takes {takes}")
    parameters = {name: _number(name, value, text) for name, value in fields.items()}
    stage = model.graph[node.stage]
    heads = stage.width if stage.is_attention_map else 1
    for name, size in (("channel", stage.width), ("head", heads)):
        if parameters.get(name, 0) >= size:
            raise UsageError(
                f"--inject {text!r}: {name}={parameters[name]:.0f}: {node.stage} has {size} of them, from 0 on"
            )
    return Fault(kind, node, parameters)


def fault_node(text: str) -> Node:
    """The stage at which a fault acts, from the text of one that `parse_fault` has taken."""
    fields = dict(piece.split("=") for piece in text.split(","))
    return Node(int(fields["layer"]) if "layer" in fields else None, fields["stage"])


def _field(piece: str, text: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in piece.partition("="))
    if not equals or not value:
        raise UsageError(
            f"--inject {text!r}: {piece!r}: expected layer=N,stage=NAME,kind=KIND and NAME=NUMBER after it"
        )
    return name, value


def _number(name: str, value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    fits = math.isfinite(number) and abs(number) <= 1e30
    if name in _COUNTS:
        fits = fits and number >= 0 and number == int(number)
    if name in _POSITIVE:
        fits = fits and number > 0
    if not fits:
        wanted = "a whole number from 0 on" if name in _COUNTS else "a finite number"
        wanted = f"{wanted} above 0" if name in _POSITIVE else wanted
        raise UsageError(f"--inject {text!r}: {name}={value}: needs {wanted}")
    return number


class FaultInjector:
    """`Intervention` that makes faults in one engine. Several at one node act one after the other; first the one that
    computes the op again."""

    def __init__(self, model: Model, mode: Mode, faults: Sequence[Fault]) -> None:
        """Raises `UsageError` for two faults that compute one node again: the second would undo the first."""
        self.nodes = frozenset(fault.node for fault in faults)
        recomputed = [fault.node for fault in faults if KINDS[fault.kind].recomputes]
        if len(set(recomputed)) < len(recomputed):
            raise UsageError("--inject: two faults compute one stage again: use one of them at a time")
        faults = sorted(faults, key=lambda fault: not KINDS[fault.kind].recomputes)
        self._faults: dict[Node, list[tuple[Fault, FaultSetting]]] = {}
        for fault in faults:
            setting = FaultSetting(model, ARITHMETIC[mode], fault.node, KINDS[fault.kind].filled(fault.parameters))
            self._faults.setdefault(fault.node, []).append((fault, setting))

    def __call__(self, call: NodeCall) -> Array:
        for fault, setting in self._faults[call.node]:
            output = KINDS[fault.kind].compute(setting, call)
            call = NodeCall(call.node, call.inputs, output, call.tokens, call.position)
        return call.output
