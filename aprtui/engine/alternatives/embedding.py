"""Alternatives of the embedding: rows of the table that belong to other ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aprtui.engine.alternatives.alternative import Alternative, Attempt, distance
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.trace.graph.ops import Op

_MOST_TOKENS = 8
_OFF = 1e-4
"""Of a token's size: what it must err by to be one of the wrong ones."""


def _other_ids(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Rows of the table that belong to other ids."""
    if found is None:
        return
    (table,), scale = call.model.params(call.node), call.model.config.embedding_scale
    own = call.honest()
    wrong = [row for row in range(len(own)) if distance(own[row], found[row]) > _OFF]
    if not 0 < len(wrong) <= _MOST_TOKENS or not np.isfinite(found[wrong]).all():
        return
    rows = found[wrong].astype(np.float64) / scale
    best, nearest = np.full(len(wrong), np.inf), np.zeros(len(wrong), np.intp)
    for start in range(0, table.rows, 4096):
        part = table.dequantize(slice(start, min(start + 4096, table.rows))).astype(np.float64)
        squares = (part**2).sum(1) - 2 * rows @ part.T
        at = squares.argmin(1)
        nearer = squares[np.arange(len(wrong)), at] < best
        best = np.where(nearer, squares[np.arange(len(wrong)), at], best)
        nearest = np.where(nearer, at + start, nearest)
    ids = list(call.tokens)
    for row, token in zip(wrong, nearest.tolist(), strict=True):
        ids[row] = token
    texts = [f"token {row + call.position} is embedded as id {ids[row]}, not {call.tokens[row]}" for row in wrong]
    yield Attempt(
        "; ".join(texts[:3]),
        lambda c: c.engine.evaluate(c.node, c.inputs, tokens=ids, position=c.position), len(wrong),
    )  # fmt: skip


EMBEDDING_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("token ids", frozenset({Op.EMBED}), _other_ids, "check the ids that the engine was given"),
)
