"""What several ranks hold of a tensor, put together along its axes, and which rank each part of it is from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.importing.dims import Dim, RankGroup, Sharing
from aprtui.trace.rank_parts import Runs

Values = NDArray[np.float32] | NDArray[np.float64]
Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Held:
    """What `ranks` hold: `values`, and the number that they have in each group that is left to put together."""

    ranks: tuple[int, ...]
    numbers: Mapping[str, int]
    values: Array


@dataclass(frozen=True, slots=True)
class SharedAxis:
    """An axis of the tensors that is shared by groups of ranks.

    `inner` is by how many equal pieces the axis is divided before each is shared, as the experts of a row; `parts` are
    the widths of matrices side by side in the whole axis, each of which is shared by itself, empty where it is one.
    """

    place: int
    groups: tuple[RankGroup, ...]
    inner: int = 1
    parts: tuple[int, ...] = ()


def shared_axis(dim: Dim, place: int, sizes: Mapping[str, int], inner: int = 1) -> SharedAxis:
    """The axis of `dim`, with the groups that have more than one rank."""
    return SharedAxis(place, tuple(group for group in dim.groups if sizes.get(group.name, 1) > 1), inner)


def by_group(held: Sequence[Held], group: str) -> list[list[Held]]:
    """Those that differ in their number in `group` alone, in its order."""
    buckets: dict[tuple[tuple[str, int], ...], list[Held]] = defaultdict(list)
    for one in held:
        rest = tuple(sorted((name, number) for name, number in one.numbers.items() if name != group))
        buckets[rest].append(one)
    return [sorted(found, key=lambda one: one.numbers[group]) for _, found in sorted(buckets.items())]


def joined(found: Sequence[Held], group: str, values: Array) -> Held:
    """`values` in place of what the ranks of a group hold."""
    numbers = {name: number for name, number in found[0].numbers.items() if name != group}
    return Held(tuple(rank for one in found for rank in one.ranks), numbers, values)


def put_together(held: Sequence[Held], axis: SharedAxis) -> list[Held]:
    """What is left when all groups that share an axis are put together, the innermost first; sums in float64."""
    for group in reversed(axis.groups):
        together = _combiner(group, axis)
        held = [
            joined(found, group.name, together([one.values for one in found])) for found in by_group(held, group.name)
        ]
    return list(held)


def _combiner(group: RankGroup, axis: SharedAxis) -> Callable[[list[Array]], Array]:
    if group.sharing is Sharing.PARTIAL:
        return _sum

    def combine(values: list[Array]) -> Array:
        if axis.parts:
            matrices = zip(split_parts(values, axis.place, axis.parts), axis.parts, strict=True)
            return np.concatenate([_without_copies(parts, axis.place, width) for parts, width in matrices], axis.place)
        if axis.inner > 1:
            split = [_split(value, axis) for value in values]
            found = np.concatenate(split, axis.place + 1)
            shape = (*found.shape[: axis.place], -1, *found.shape[axis.place + 2 :])
            return found.reshape(shape)
        found = np.concatenate(values, axis.place)
        return _from_zigzag(found, axis.place, len(values)) if group.sharing is Sharing.ZIGZAG else found

    return combine


def _sum(values: list[Array]) -> Array:
    total = np.array(values[0], np.float64)
    for value in values[1:]:
        total += np.asarray(value, np.float64)
    return total


def _split(value: Array, axis: SharedAxis) -> Array:
    return value.reshape(*value.shape[: axis.place], axis.inner, -1, *value.shape[axis.place + 1 :])


def part_widths(own: int, widths: Sequence[int], ranks: int) -> tuple[list[int], int] | None:
    """The widths of the parts of a rank, `own` channels in all, of matrices of `widths` that `ranks` share, and how
    many neighbouring ranks hold the same of all matrices but the first of several.

    K and V with fewer heads than there are ranks are such. None where no number of copies makes `own`.
    """
    shared = list(widths[:1]) if len(widths) > 1 else []
    repeated = list(widths[len(shared) :])
    if any(width % ranks for width in shared):
        return None
    copies, rest = divmod((own - sum(shared) // ranks) * ranks, sum(repeated))
    if rest or copies < 1 or ranks % copies or any(width * copies % ranks for width in repeated):
        return None
    return [*(width // ranks for width in shared), *(width * copies // ranks for width in repeated)], copies


def split_parts(held: Sequence[Array], place: int, widths: Sequence[int]) -> list[list[Array]]:
    """For each matrix, the part that each rank has of it."""
    found = part_widths(held[0].shape[place], widths, len(held))
    assert found is not None, "checked before"
    ends = [int(end) for end in np.cumsum(found[0])[:-1]]
    return [list(parts) for parts in zip(*(np.split(value, ends, place) for value in held), strict=True)]


def _without_copies(values: list[Array], place: int, width: int) -> Array:
    """The parts of a matrix of `width` in all, one of each run of ranks that hold the same."""
    copies = max(1, len(values) * values[0].shape[place] // width)
    return np.concatenate(values[::copies], place)


def _from_zigzag(values: Array, place: int, ranks: int) -> Array:
    """In natural order: rank r holds chunk r and chunk 2n − 1 − r of 2n chunks (Megatron's context parallelism)."""
    chunks = np.split(values, 2 * ranks, place)
    order = [0] * (2 * ranks)
    for rank in range(ranks):
        order[rank], order[2 * ranks - 1 - rank] = 2 * rank, 2 * rank + 1
    return np.concatenate([chunks[index] for index in order], place)


def owners(held: Sequence[Held], axis: SharedAxis) -> dict[tuple[int, ...], Runs]:
    """Which positions of the whole axis are from which ranks, as runs of first and end; empty where all have all."""
    names = [group.name for group in axis.groups if group.sharing is not Sharing.PARTIAL]
    if not names:
        return {}
    kept = replace(axis, place=0, groups=tuple(group for group in axis.groups if group.name in names))
    labels: dict[tuple[int, ...], list[int]] = defaultdict(list)
    sizes: dict[tuple[int, ...], int] = {}
    for one in held:
        key = tuple(one.numbers[name] for name in names)
        labels[key] += one.ranks
        sizes[key] = one.values.shape[axis.place]
    ordered = sorted(labels)
    marked = [
        Held((), dict(zip(names, key, strict=True)), np.full(sizes[key], number, np.int32))
        for number, key in enumerate(ordered)
    ]
    (whole,) = put_together(marked, kept)
    return {tuple(sorted(labels[key])): _runs(whole.values == number) for number, key in enumerate(ordered)}


def _runs(chosen: NDArray[np.bool_]) -> Runs:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return tuple((int(first), int(end)) for first, end in edges.reshape(-1, 2))
