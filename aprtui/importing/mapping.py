"""Mapping files: which tensors of another tool are which stages, and what has to be done to them.

stages:
  attn_norm: "layers.{layer}.norm"                                  # names, with {layer}, {token} and * in them
  post_ffn_residual: {sum: ["l{layer}.hidden", "l{layer}.residual"]}
  qkv_matmul: {concatenate: ["l{layer}.q", "l{layer}.k", "l{layer}.v"]}
  k_post_rope: {from: "l{layer}.key", axes: [batch, head, token, channel], batch: 0, pairs: to-halves, head_dim: 64}
  attn_out: {from: "all_outputs", axes: [layer, token, channel]}    # a tensor of all layers
layers: {first: 1}                                                  # the tool counts them from 1
tokens: [1, 2, 3]                                                   # or the name of a tensor of ids
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from aprtui.errors import UsageError
from aprtui.trace.graph.names import known_stages
from aprtui.trace.graph.ops import Scope
from aprtui.trace.graph.stage import MAX_LAYERS, canonical_name
from aprtui.yaml_file import fields_of, read_settings

_MOST_PATTERN, _MOST_STARS, _MOST_PARTS, _MOST_DEPTH = 500, 3, 64, 3
_PLACEHOLDERS = re.compile(r"\{(layer|token)\}|\*")
_OPERATIONS = ("from", "sum", "concatenate")


class SourceAxis(StrEnum):
    """What an axis of a tensor counts; `one` is an axis of size 1 without a meaning."""

    LAYER = "layer"
    BATCH = "batch"
    ONE = "one"
    TOKEN = "token"
    HEAD = "head"
    EXPERT = "expert"
    CHANNEL = "channel"
    QUERY = "query"
    KEY = "key"


class PairOrder(StrEnum):
    """How the channels of each head are moved: from halves (`i`, `i + d/2`) into neighbours, or the other way."""

    TO_NEIGHBOURS = "to-neighbours"
    TO_HALVES = "to-halves"


class Operation(StrEnum):
    """What is done with several tensors of a stage."""

    SUM = "sum"
    CONCATENATE = "concatenate"


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor by the pattern of its name, or several of them together, and how it becomes rows of a stage.

    `axes` is None for `[tokens, channels]` or `[heads, query, key]` behind axes of size 1. `slices` holds for an axis
    the values that are taken, first and end.
    """

    pattern: str = ""
    parts: tuple[Piece, ...] = ()
    operation: Operation | None = None
    axes: tuple[SourceAxis, ...] | None = None
    batch: int = 0
    slices: Mapping[SourceAxis, tuple[int, int]] = field(default_factory=dict)
    pairs: PairOrder | None = None
    head_dim: int = 0

    def patterns(self) -> Iterator[str]:
        """The patterns of all names that it is made of."""
        if self.parts:
            for part in self.parts:
                yield from part.patterns()
        else:
            yield self.pattern

    @property
    def counts_layers(self) -> bool:
        """Whether an axis of its tensors counts layers."""
        return SourceAxis.LAYER in (self.axes or ()) or any(part.counts_layers for part in self.parts)

    @property
    def counts_sequences(self) -> bool:
        """Whether an axis of its tensors counts the sequences of a batch."""
        return SourceAxis.BATCH in (self.axes or ()) or any(part.counts_sequences for part in self.parts)

    def of_sequence(self, number: int) -> Piece:
        """The same of another sequence of the batch."""
        return replace(self, batch=number, parts=tuple(part.of_sequence(number) for part in self.parts))


@dataclass(frozen=True, slots=True)
class Rule:
    """How a stage is made. `first` is the number that layer 0 has in the names, `end` the first one that is no layer's,
    `layer` the only layer meant."""

    stage: str
    piece: Piece
    first: int = 0
    layer: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class TensorMapping:
    """The rules of a mapping, and what it says of the capture as a whole; `tokens` may be the name of a tensor."""

    rules: tuple[Rule, ...]
    tokens: tuple[int, ...] | str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def of_sequence(self, number: int) -> TensorMapping:
        """The rules for another sequence of the batch. Raises `UsageError` where no axis counts sequences."""
        if not any(rule.piece.counts_sequences for rule in self.rules):
            raise UsageError("--sequence: no axis of the mapping counts sequences: name one as axes: [batch, …]")
        chosen = (
            replace(rule, piece=rule.piece.of_sequence(number)) if rule.piece.counts_sequences else rule
            for rule in self.rules
        )
        return replace(self, rules=tuple(chosen))


SCOPES: Mapping[str, Scope] = {name: stage.scope for name, stage in known_stages().items()}
"""The scope of every stage that a capture can have."""


def read_mapping_file(path: Path) -> TensorMapping:
    """The mapping in a YAML file. Raises `UsageError`, naming file and field."""
    known = {"stages", "layers", "tokens", "model", "engine", "prompt"}
    document = fields_of(read_settings(path), path, "the file", known, needed={"stages"})
    layers = fields_of(document.get("layers", {}), path, "layers", {"first"})
    first = _whole(layers.get("first", 0), path, "layers.first")
    stages = document["stages"]
    if not isinstance(stages, dict) or not stages:
        raise UsageError(f"{path}: stages: expected stages, each with the name of a tensor or the fields of a rule")
    rules = tuple(rule for name, value in stages.items() for rule in _rules(name, value, first, path))
    facts = {key: str(document[key]) for key in ("model", "engine", "prompt") if document.get(key) is not None}
    return TensorMapping(rules, _tokens(document.get("tokens"), path), facts)


def _tokens(value: Any, path: Path) -> tuple[int, ...] | str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(type(token) is int and token >= 0 for token in value):
        raise UsageError(f"{path}: tokens: expected token ids, or the name of a tensor of them")
    return tuple(value)


def _rules(name: str, value: Any, first: int, path: Path) -> Iterator[Rule]:
    stage, where = canonical_name(name), f"stages.{name}"
    if stage not in SCOPES:
        raise UsageError(f"{path}: {where}: no such stage: there are {', '.join(SCOPES)}")
    for entry in value if isinstance(value, list) else [value]:
        fields = dict(entry) if isinstance(entry, dict) else {"from": entry}
        states_first = "first" in fields
        own_first = _whole(fields.pop("first", first), path, f"{where}.first")
        end = fields.pop("end", None)
        if end is not None and _whole(end, path, f"{where}.end") <= own_first:
            raise UsageError(f"{path}: {where}.end: expected a number behind first, which is {own_first}")
        layer = fields.pop("layer", None)
        if layer is not None and _whole(layer, path, f"{where}.layer") >= MAX_LAYERS:
            raise UsageError(f"{path}: {where}.layer: expected a layer below {MAX_LAYERS}")
        piece = _piece(fields, path, where, _MOST_DEPTH)
        _check_layers(stage, piece, layer, path, where)
        if end is not None and not any("{layer}" in pattern for pattern in piece.patterns()):
            raise UsageError(f"{path}: {where}.end: there is no {{layer}} in the name that it would end")
        if states_first and piece.counts_layers:
            raise UsageError(
                f"{path}: {where}.first: an axis counts the layers: slice: {{layer: [FIRST, END]}} takes some"
            )
        yield Rule(stage, piece, 0 if piece.counts_layers else own_first, layer, end)


def _check_layers(stage: str, piece: Piece, layer: int | None, path: Path, where: str) -> None:
    by_layer = any("{layer}" in pattern for pattern in piece.patterns())
    if by_layer and piece.counts_layers:
        raise UsageError(f"{path}: {where}: layers are counted by the name, and by an axis: leave one of them out")
    if SCOPES[stage] is Scope.MODEL and (by_layer or layer is not None):
        raise UsageError(f"{path}: {where}: is there once for the model: leave {{layer}} and layer out")
    if SCOPES[stage] is Scope.LAYER and not piece.counts_layers and by_layer == (layer is not None):
        raise UsageError(
            f"{path}: {where}: is there in every layer: put {{layer}} into the name, name the axis that counts them in "
            "axes, or give layer: N"
        )


def _piece(value: Any, path: Path, where: str, depth: int) -> Piece:
    fields = fields_of(
        value if isinstance(value, dict) else {"from": value},
        path, where, {*_OPERATIONS, "axes", "batch", "slice", "pairs", "head_dim"},
    )  # fmt: skip
    given = [name for name in _OPERATIONS if name in fields]
    if len(given) != 1:
        raise UsageError(f"{path}: {where}: expected one of {', '.join(_OPERATIONS)}")
    options = _options(fields, path, where)
    what = fields[given[0]]
    if given[0] == "from":
        return Piece(_pattern(what, path, where), **options)
    if not isinstance(what, list) or not 2 <= len(what) <= _MOST_PARTS or not depth:
        raise UsageError(
            f"{path}: {where}.{given[0]}: expected 2 … {_MOST_PARTS} tensors, nested at most {_MOST_DEPTH}"
        )
    parts = tuple(_piece(part, path, f"{where}.{given[0]}[{i}]", depth - 1) for i, part in enumerate(what))
    if options["axes"] or options["batch"]:
        raise UsageError(f"{path}: {where}: axes and batch are those of each tensor: give them there")
    return Piece(parts=parts, operation=Operation(given[0]), **options)


def _pattern(value: Any, path: Path, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_PATTERN:
        raise UsageError(f"{path}: {where}: expected the name of a tensor, up to {_MOST_PATTERN} characters")
    found = _PLACEHOLDERS.findall(value)
    if found.count("layer") > 1 or found.count("token") > 1 or found.count("") > _MOST_STARS:
        raise UsageError(f"{path}: {where}: {value!r:.80}: {{layer}} and {{token}} once each, * {_MOST_STARS} times")
    return value


def _options(fields: Mapping[str, Any], path: Path, where: str) -> dict[str, Any]:
    axes = fields.get("axes")
    if axes is not None:
        names = [axis.value for axis in SourceAxis]
        if not isinstance(axes, list) or not axes or not all(axis in names for axis in axes):
            raise UsageError(f"{path}: {where}.axes: expected a list of {', '.join(names)}")
        if len(set(axes) - {"one"}) + axes.count("one") != len(axes):
            raise UsageError(f"{path}: {where}.axes: each axis once")
        axes = tuple(map(SourceAxis, axes))
    slices = fields_of(fields.get("slice", {}), path, f"{where}.slice", [axis.value for axis in SourceAxis])
    pairs = fields.get("pairs")
    if pairs is not None and pairs not in list(PairOrder):
        raise UsageError(f"{path}: {where}.pairs: expected {' or '.join(PairOrder)}")
    head_dim = _whole(fields.get("head_dim", 0), path, f"{where}.head_dim")
    if (pairs is None) == bool(head_dim) or head_dim % 2:
        raise UsageError(f"{path}: {where}: pairs and an even head_dim go together")
    return {
        "axes": axes,
        "batch": _whole(fields.get("batch", 0), path, f"{where}.batch"),
        "slices": {SourceAxis(name): _range(value, path, f"{where}.slice.{name}") for name, value in slices.items()},
        "pairs": None if pairs is None else PairOrder(pairs),
        "head_dim": head_dim,
    }


def _range(value: Any, path: Path, where: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise UsageError(f"{path}: {where}: expected [FIRST, END], END excluded")
    first, end = (_whole(entry, path, where) for entry in value)
    if first >= end:
        raise UsageError(f"{path}: {where}: [{first}, {end}] takes nothing: END is excluded")
    return first, end


def _whole(value: Any, path: Path, where: str) -> int:
    if type(value) is not int or value < 0:
        raise UsageError(f"{path}: {where}: expected a whole number from 0 on")
    return value


def expression(pattern: str) -> re.Pattern[str]:
    """What names a pattern means, with groups `layer` and `token` where it has those."""
    found, end = [], 0
    for match in _PLACEHOLDERS.finditer(pattern):
        found += [re.escape(pattern[end : match.start()]), ".*" if match[0] == "*" else f"(?P<{match[1]}>[0-9]{{1,9}})"]
        end = match.end()
    return re.compile("".join([*found, re.escape(pattern[end:])]), re.DOTALL)


def as_document(mapping: TensorMapping) -> dict[str, Any]:
    """The mapping as the values that its file would hold."""
    stages: dict[str, list[Any]] = {}
    for rule in mapping.rules:
        extra = {
            name: value for name, value in (("first", rule.first), ("layer", rule.layer), ("end", rule.end)) if value
        }
        if rule.layer == 0:
            extra["layer"] = 0
        fields = _as_fields(rule.piece) | extra
        stages.setdefault(rule.stage, []).append(fields["from"] if set(fields) == {"from"} else fields)
    document: dict[str, Any] = {
        "stages": {name: found[0] if len(found) == 1 else found for name, found in stages.items()}
    }
    if mapping.tokens is not None:
        document["tokens"] = mapping.tokens if isinstance(mapping.tokens, str) else list(mapping.tokens)
    return document | dict(mapping.facts)


def _as_fields(piece: Piece) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if piece.operation is None:
        fields["from"] = piece.pattern
    else:
        inner = [_as_fields(part) for part in piece.parts]
        fields[str(piece.operation)] = [each["from"] if set(each) == {"from"} else each for each in inner]
    if piece.axes:
        fields["axes"] = [str(axis) for axis in piece.axes]
    if piece.batch:
        fields["batch"] = piece.batch
    if piece.slices:
        fields["slice"] = {str(axis): list(ends) for axis, ends in piece.slices.items()}
    if piece.pairs:
        fields |= {"pairs": str(piece.pairs), "head_dim": piece.head_dim}
    return fields
