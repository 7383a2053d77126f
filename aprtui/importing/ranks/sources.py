"""What each rank of a model left behind: folders of ranks with a capture in each, or a dump of another tool."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from aprtui.errors import UnreadableError, UsageError
from aprtui.importing.elements import Floats
from aprtui.importing.formats.ranks import ranks_in, unplaced
from aprtui.importing.formats.registry import format_named, format_of
from aprtui.importing.import_format import RankNumbers
from aprtui.importing.planning import Ingredient, plan, values_of
from aprtui.importing.ranks.description import PIPELINE, RankDescription
from aprtui.importing.reading import ImportRequest, contents, stated_tokens
from aprtui.trace.capture import Capture, holds_stages
from aprtui.trace.graph.stage import Node

_FOLDER = re.compile(r"rank[-_]?(\d{1,6})")


@dataclass(frozen=True, slots=True)
class RankTensor:
    """What a rank holds of a stage: `load` gives `[tokens, width]` or `[heads, query, key]`, or one
    axis where no file says which; `dims` as files state. `inferred` is the shape that all tokens would give it."""

    load: Callable[[], Floats]
    dims: str
    inferred: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class RankHoldings:
    """What one rank holds, and the number that it has in each group of more than one rank."""

    rank: int
    numbers: Mapping[str, int]
    tensors: Mapping[Node, RankTensor]


@dataclass(frozen=True, slots=True)
class RankedSource:
    """All ranks of a source; `sizes` are those of its groups. `token_count` is None where nothing tells."""

    path: Path
    ranks: tuple[RankHoldings, ...]
    sizes: Mapping[str, int]
    tokens: tuple[int, ...] | None
    token_count: int | None
    facts: Mapping[str, str]


def rank_numbers(path: Path, format_name: str | None = None) -> RankNumbers:
    """The ranks that lie in `path`, where there are several, and what their files say of where they stand."""
    entry = format_named(format_name) if format_name else format_of(path)
    try:
        found = entry.ranks(path) if entry is not None else {}
        if len(found) < 2 and format_name is None:
            found = unplaced(rank for rank, folder in ranks_in(path, _FOLDER).items() if _holds_something(folder))
    except OSError:
        return {}
    return found if len(found) > 1 else {}


def _holds_something(folder: Path) -> bool:
    return holds_stages(folder) or format_of(folder) is not None


def read_ranks(path: Path, request: ImportRequest, description: RankDescription) -> RankedSource:
    """What the ranks in `path` hold. Raises `UnreadableError` and `UsageError`."""
    known = rank_numbers(path, request.format_name)
    if not known:
        raise UnreadableError(f"{path}: holds no ranks: expected folders rank-0, rank-1, …, or a dump of several ranks")
    places = description.places_of(sorted(known), path) or known
    if not any(places.values()):
        raise UsageError(
            f"{path}: {len(known)} ranks, and nothing says which group they are: give groups: {{tp: {len(known)}}} "
            f"in a file for --dims, or aprtui ranks {path} --guess proposes one"
        )
    if len({frozenset(numbers) for numbers in places.values()}) > 1:
        raise UnreadableError(f"{path}: ranks state different groups: give places in a file for --dims")
    sizes = {name: 1 + max(numbers[name] for numbers in places.values()) for name in next(iter(places.values()))}
    _require_one_each(path, places)
    active = {name for name, size in sizes.items() if size > 1}
    read = {rank: _read_rank(path, rank, request) for rank in sorted(known)}
    holdings = tuple(
        RankHoldings(rank, {name: n for name, n in places[rank].items() if name in active},
                     _in_own_layers(one.tensors, places[rank].get(PIPELINE, 0), description, path))
        for rank, one in read.items()
    )  # fmt: skip
    listed = {one.tokens for one in read.values() if one.tokens is not None}
    if len(listed) > 1 and description.tokens is None:
        raise UsageError(f"{path}: ranks state different tokens: give all of them as tokens in a file for --dims")
    tokens = description.tokens or (next(iter(listed)) if listed else None)
    counts = {one.token_count for one in read.values() if one.token_count}
    count = len(tokens) if tokens else description.token_count or (counts.pop() if len(counts) == 1 else None)
    return RankedSource(path, holdings, sizes, tokens, count, next(iter(read.values())).facts)


def _require_one_each(path: Path, places: RankNumbers) -> None:
    """Raise `UsageError` where two ranks stand at the same place of all groups."""
    counted = Counter(tuple(sorted(numbers.items())) for numbers in places.values())
    twice = next((place for place, count in counted.items() if count > 1), None)
    if twice is not None:
        at = ", ".join(f"{name} {number}" for name, number in twice)
        raise UsageError(f"{path}: two ranks stand at {at}: name the group in which they differ (dp holds copies)")


def _in_own_layers(
    tensors: Mapping[Node, RankTensor], stage: int, description: RankDescription, path: Path
) -> dict[Node, RankTensor]:
    """The tensors by the layer that they are of in the whole model."""
    first = description.first_layers
    if not first:
        return dict(tensors)
    if stage >= len(first):
        raise UsageError(
            f"{path}: first_layers: has {len(first)} numbers, there is a {PIPELINE} {stage}: give one each"
        )
    return {
        node if node.layer is None else replace(node, layer=node.layer + first[stage]): tensor
        for node, tensor in tensors.items()
    }


@dataclass(frozen=True, slots=True)
class _Read:
    tensors: Mapping[Node, RankTensor]
    tokens: tuple[int, ...] | None
    token_count: int | None
    facts: Mapping[str, str]


def _read_rank(path: Path, rank: int, request: ImportRequest) -> _Read:
    folder = ranks_in(path, _FOLDER).get(rank)
    if folder is not None and holds_stages(folder):
        return _of_capture(Capture.open(folder))
    whole = folder is None or request.format_name is not None or format_of(path) is not None
    choice = replace(request.choice, rank=rank if whole else None, partial=True)
    source, mapping = contents(path if whole or folder is None else folder, replace(request, choice=choice))
    tokens = source.tokens or stated_tokens(source, mapping)
    found = plan(mapping, {name: tensor for name, tensor in source.tensors.items() if name != mapping.tokens})
    tensors = {node: RankTensor(partial(values_of, node, made), _dims_of(made)) for node, made in found.nodes.items()}
    facts = {**source.facts, **mapping.facts}
    return _Read(tensors, tokens, len(tokens) if tokens else None, facts)


def _dims_of(made: Ingredient) -> str:
    """What all tensors of a stage state alike; empty where they state nothing, or different things."""
    stated = {tensor.dims for tensor in made.names()}
    return stated.pop() if len(stated) == 1 else ""


def _of_capture(capture: Capture) -> _Read:
    if capture.complete is False:
        raise UnreadableError(f"{capture.path}: the capture was not finished: capture again")
    tensors = {
        node: RankTensor(partial(_captured, capture, node), "", file.shape if file.inferred else None)
        for node, file in capture.files.items()
    }
    name = None if capture.model is None else capture.model.name
    return _Read(tensors, capture.tokens, capture.token_count, {} if name is None else {"model": name})


def _captured(capture: Capture, node: Node) -> Floats:
    """The values in the shape that a manifest states. One that follows from the tokens may be wrong: a rank may have
    some of them."""
    values = capture.values(node)
    return np.asarray(values.reshape(-1) if capture.files[node].inferred else values, np.float32)
