"""What every format has: how it is recognised, and what is read of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aprtui.importing.mapping import TensorMapping
from aprtui.importing.source import Source
from aprtui.trace.graph.stage_graph import StageGraph


@dataclass(frozen=True, slots=True)
class PartChoice:
    """What is taken of a source that holds several captures; None: the only one there is, or the first."""

    rank: int | None = None
    steps: range | None = None
    sequence: int | None = None
    partial: bool = False
    """Whether parts of stages are wanted, as one rank of several has them."""


RankNumbers = Mapping[int, Mapping[str, int]]
"""For each rank of a source the number that it has in each group of ranks, as far as files tell."""


def no_ranks(path: Path) -> RankNumbers:
    """The ranks of a format that knows none."""
    return {}


@dataclass(frozen=True, slots=True)
class ImportFormat:
    """A format that `--as NAME` asks for, described in `words`.

    `recognises` says whether a path is surely of this format. `read` gives its tensors and what they are; it raises
    `UnreadableError` or `UsageError`. The graph is that of the model that was run,
    None where it is not known. `ranks` lists the ranks that a path holds, where it holds more than one process.
    """

    name: str
    words: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, PartChoice, StageGraph | None], tuple[Source, TensorMapping]]
    ranks: Callable[[Path], RankNumbers] = no_ranks
