"""The file that says how the ranks of a model share its stages.

groups: {tp: 4, pp: 2}               # how many ranks each has; rank = tp + 4 * pp, the first one varies fastest
places: {0: {tp: 0}, 1: {tp: 1}}     # or the numbers of each rank, where they are others
first_layers: [0, 2]                 # where the ranks of each pp count their own layers from 0
tokens: [1, 2, 3]                    # or how many there are
stages:
  attn_norm: "t h # tp:replicated"
  qkv_matmul: "t (q+k+v)[tp]"
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from aprtui.errors import UsageError
from aprtui.importing.dims import Dims, parse_dims
from aprtui.trace.graph.stage import canonical_name
from aprtui.yaml_file import fields_of, read_settings

FILE_NAME = "aprtui-ranks.yaml"
PIPELINE = "pp"
_MOST_RANKS = 1 << 16

Places = Mapping[int, Mapping[str, int]]
"""For each rank the number that it has in each group."""


@dataclass(frozen=True, slots=True)
class RankDescription:
    """What a user says of the ranks. `groups` has the sizes of groups, `stages` dims by stage or glob, in order."""

    groups: Mapping[str, int] = field(default_factory=dict)
    places: Places | None = None
    first_layers: tuple[int, ...] = ()
    tokens: tuple[int, ...] | None = None
    token_count: int | None = None
    stages: tuple[tuple[str, Dims], ...] = ()

    def dims(self, stage: str) -> Dims | None:
        """Those of the stage by its name, else of the first glob that means it."""
        by_name = next((dims for name, dims in self.stages if name == stage), None)
        return by_name or next((dims for name, dims in self.stages if fnmatchcase(stage, name)), None)

    def places_of(self, ranks: Sequence[int], path: Path) -> Places | None:
        """The numbers that each of `ranks` has, None where nothing is said. Raises `UsageError` where one has none."""
        if self.places is not None:
            missing = set(ranks) - self.places.keys()
            if missing:
                raise UsageError(f"{path}: places: nothing of rank {min(missing)}: give its number in each group")
            return {rank: self.places[rank] for rank in ranks}
        if not self.groups:
            return None
        count = math.prod(self.groups.values())
        if max(ranks) >= count:
            sizes = " * ".join(f"{name} {size}" for name, size in self.groups.items())
            raise UsageError(
                f"{path}: groups: {sizes} are {count} ranks, there is a rank {max(ranks)}: give all groups"
            )
        return {rank: _numbers(rank, self.groups) for rank in ranks}


def _numbers(rank: int, groups: Mapping[str, int]) -> dict[str, int]:
    found = {}
    for name, size in groups.items():
        rank, found[name] = divmod(rank, size)
    return found


def read_description(path: Path) -> RankDescription:
    """The description in a YAML file. Raises `UsageError`, naming file and field."""
    known = {"groups", "places", "first_layers", "tokens", "stages"}
    document = fields_of(read_settings(path), path, "the file", known)
    if "groups" in document and "places" in document:
        raise UsageError(f"{path}: places: says what groups says already: give one of them")
    groups = _sizes(document.get("groups", {}), path)
    tokens = document.get("tokens")
    listed = _whole_numbers(tokens, path, "tokens") if isinstance(tokens, list) else None
    count = len(listed) if listed is not None else None if tokens is None else _whole(tokens, path, "tokens")
    return RankDescription(
        groups,
        _places(document["places"], path) if "places" in document else None,
        _whole_numbers(document.get("first_layers", []), path, "first_layers"),
        listed, count,
        _stages(document.get("stages", {}), path),
    )  # fmt: skip


def _sizes(value: Any, path: Path) -> dict[str, int]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: groups: expected sizes of groups by name, as {{tp: 4, pp: 2}}")
    sizes = {str(name): _whole(size, path, f"groups.{name}") for name, size in value.items()}
    if not all(sizes.values()) or math.prod(sizes.values()) > _MOST_RANKS:
        raise UsageError(f"{path}: groups: expected sizes from 1 on, of at most {_MOST_RANKS} ranks in all")
    return sizes


def _places(value: Any, path: Path) -> dict[int, dict[str, int]]:
    if not isinstance(value, dict) or not value:
        raise UsageError(f"{path}: places: expected the numbers of each rank, as {{0: {{tp: 0}}, 1: {{tp: 1}}}}")
    found = {}
    for rank, numbers in value.items():
        if not str(rank).isdecimal() or len(str(rank)) > 6 or not isinstance(numbers, dict):
            raise UsageError(f"{path}: places.{rank}: expected a rank, and its number in each group")
        found[int(rank)] = {
            str(name): _whole(number, path, f"places.{rank}.{name}") for name, number in numbers.items()
        }
    if len({frozenset(numbers) for numbers in found.values()}) > 1:
        raise UsageError(f"{path}: places: every rank needs its number in every group")
    return found


def _stages(value: Any, path: Path) -> tuple[tuple[str, Dims], ...]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise UsageError(f'{path}: stages: expected dims by stage, as attn_norm: "t h # tp:replicated"')
    return tuple((canonical_name(name), parse_dims(text, f"{path}: stages.{name}")) for name, text in value.items())


def _whole_numbers(value: Any, path: Path, where: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise UsageError(f"{path}: {where}: expected a list of whole numbers")
    return tuple(_whole(entry, path, where) for entry in value)


def _whole(value: Any, path: Path, where: str) -> int:
    if type(value) is not int or value < 0:
        raise UsageError(f"{path}: {where}: expected a whole number from 0 on")
    return value
