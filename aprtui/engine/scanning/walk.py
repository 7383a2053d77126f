"""One walk of an engine over a text, given or generated, with a few numbers kept of each token.

Statistics of all stages are looked at for NaN and Inf; logits are held against those of a reference, which evaluates
the same tokens, and forgotten. So a walk takes the memory of a few blocks of logits, however long the text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.generation import GeneratedToken, generate
from aprtui.engine.protocol import NO_TAPS, Engine, Logits, Taps
from aprtui.engine.scanning.figures import PositionFigures, token_figures
from aprtui.errors import EngineError
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.stats import Accumulator

Array = NDArray[np.float32]

BLOCK = 32
"""Tokens whose logits are in memory at once."""


class LogitSource(Protocol):
    """Logits that a walk is held against."""

    def rows(self, tokens: Sequence[int], positions: range) -> Array | None:
        """Logits `[n, V]` at `positions` of `tokens`, asked for from the first position on without a gap; None where
        there are none for them."""


@dataclass(slots=True)
class EngineLogits:
    """Those of another engine, which evaluates the tokens in passes, or one by one (`decodes`)."""

    engine: Engine
    decodes: bool = False

    def rows(self, tokens: Sequence[int], positions: range) -> Array | None:
        """See `LogitSource`."""
        wanted = list(tokens[positions.start : positions.stop])
        step = 1 if self.decodes else len(wanted)
        passes = [
            self.engine.forward(wanted[at : at + step], NO_TAPS, Logits.ALL) for at in range(0, len(wanted), step)
        ]
        return np.concatenate(passes)


@dataclass(slots=True)
class StoredLogits:
    """Those of a file: rows of logits, or log-probabilities, by position."""

    by_position: Mapping[int, Array]

    def rows(self, tokens: Sequence[int], positions: range) -> Array | None:
        """See `LogitSource`."""
        held = [self.by_position.get(position) for position in positions]
        if all(row is None for row in held):
            return None
        width = next(row.size for row in held if row is not None)
        return np.stack([np.full(width, np.nan, np.float32) if row is None else row for row in held])


class _Watch:
    """`TapSink` that keeps logits by position, and which stage was not finite first in each call since `begin`."""

    def __init__(self, graph: StageGraph) -> None:
        self._logits = graph.nodes[-1]
        self.rows: dict[int, Array] = {}
        self.origin: Node | None = None

    def put(self, node: Node, position: int, values: Array | None, stats: Accumulator | None) -> None:
        if stats is not None and stats.nan + stats.inf and self.origin is None:
            self.origin = node
        if values is not None and node == self._logits:
            self.rows.update(enumerate(np.array(values), position))


@dataclass(frozen=True, slots=True)
class Walked:
    """The figures of each position, and the ids that were evaluated: `given` of them, then those that were chosen."""

    figures: tuple[PositionFigures, ...]
    tokens: tuple[int, ...]
    given: int


@dataclass(slots=True)
class _Walk:
    engine: Engine
    source: LogitSource | None
    tokens: list[int]
    figures: list[PositionFigures] = field(default_factory=list)
    watch: _Watch = field(init=False)
    taps: Taps = field(init=False)
    _origins: dict[int, Node | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.engine.graph
        self.watch = _Watch(graph)
        seen = frozenset(node for node in graph.nodes if not graph[node.stage].is_attention_map)
        self.taps = Taps(self.watch, full=frozenset({graph.nodes[-1]}), stats=seen)

    def evaluate(self, begin: int, end: int) -> None:
        """Evaluate the tokens of a block; where something is not finite, one by one, so that its token is known."""
        self.watch.origin = None
        self.engine.forward(self.tokens[begin:end], self.taps, Logits.ALL)
        if self.watch.origin is not None and end - begin > 1:
            self.engine.reset(begin)
            for at in range(begin, end):
                self.watch.origin = None
                self.engine.forward(self.tokens[at : at + 1], self.taps, Logits.ALL)
                self._origins[at] = self.watch.origin
            return
        self._origins.update(dict.fromkeys(range(begin, end), self.watch.origin))

    def seen(self, position: int) -> None:
        """The pass at `position` is done: what it saw is of this one."""
        self._origins[position], self.watch.origin = self.watch.origin, None

    def count(self) -> None:
        """Make figures of the logits that are there, and forget them."""
        positions = range(len(self.figures), len(self.figures) + len(self.watch.rows))
        if not positions:
            return
        logits = np.stack([self.watch.rows.pop(position) for position in positions])
        reference = None if self.source is None else self.source.rows(self.tokens, positions)
        following = [self.tokens[at + 1] if at + 1 < len(self.tokens) else None for at in positions]
        tokens = self.tokens[positions.start : positions.stop]
        origins = [self._origins.pop(at, None) for at in positions]
        self.figures += token_figures(positions, tokens, following, origins, logits, reference)


def walk(
    engine: Engine, tokens: Sequence[int], generated: int, stop_ids: Collection[int], source: LogitSource | None,
    progress: Progress,
) -> Walked:  # fmt: skip
    """Evaluate `tokens`, then up to `generated` greedy ones until one of `stop_ids`, each figure held against `source`
    where there is one."""
    run = _Walk(engine, source, list(tokens))
    total, given = len(tokens) + max(generated - 1, 0), len(tokens) - (1 if generated else 0)
    engine.reset()
    for begin in range(0, given, BLOCK):
        progress("walking token", begin, total)
        run.evaluate(begin, min(begin + BLOCK, given))
        run.count()
    for position in _generated(run, generated, stop_ids):
        progress("walking token", position, total)
        if len(run.watch.rows) >= BLOCK:
            run.count()
    run.count()
    return Walked(tuple(run.figures), tuple(run.tokens), len(tokens))


def _generated(run: _Walk, count: int, stop_ids: Collection[int]) -> Iterator[int]:
    """Choose up to `count` tokens behind those of the walk; the position of each pass.

    Logits that are no distribution end it: no token can be chosen from them, and their figures say why.
    """
    if not count:
        return
    generation = generate(
        run.engine, None, run.tokens, max_tokens=count, taps=run.taps, stop_ids=stop_ids, held=run.tokens[:-1]
    )
    token: GeneratedToken | None
    while True:
        position = run.engine.position
        try:
            token = next(generation, None)
        except EngineError:
            token = None
        if run.engine.position == position:
            return
        run.seen(position)
        if token is not None:
            run.tokens.append(token.id)
        yield position
        if token is None:
            return
