"""Token ids of a capture that records none, from its embedding and the model's table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.tokens import EMBEDDING_REL_L2
from aprtui.compare.survey import Lost, held_values
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import ENTRY, Node

Rows = NDArray[np.float64]

TABLE_SOURCE = "embedding, found in the model's table"

_ROWS = 4096
_NEAR = 1e-2
"""An embedding kept in 16 bits is off by at most this, another token's by about √2."""


def tokens_of(capture: Capture, model: Model) -> tuple[int, ...] | None:
    """The id of each row of the captured embedding; None where a row is no token's, or not that of one alone.

    Ids of tokens whose rows are equal cannot be told apart, and need not be: the first of them is taken.
    """
    rows = _embedding(capture, model)
    if rows is None:
        return None
    nearest = _nearest(rows, model)
    return tuple(nearest) if _are(nearest, rows, model) else None


def parts_of(tokens: Sequence[int], capture: Capture, model: Model) -> list[range]:
    """The positions of `tokens`, ids of the vocabulary, that the rows of the captured embedding may be of, where they
    are several and fewer: the first two that are found."""
    rows = _embedding(capture, model)
    if rows is None or not 1 < len(rows) < len(tokens):
        return []
    begins = {token for token in set(tokens) if _are([token], rows[:1], model)}
    starts = (at for at in range(len(tokens) - len(rows) + 1) if tokens[at] in begins)
    fitting = (at for at in starts if _are(tokens[at : at + len(rows)], rows, model))
    return [range(at, at + len(rows)) for at in islice(fitting, 2)]


def known_tokens(a: Capture, b: Capture, model: Model, given: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The token ids of two captures: as each records them, as the user gives them, or as its embedding shows them.

    None where those of a side cannot be known, or differ from the other's.
    """
    ids_a, ids_b = (side.tokens or given or tokens_of(side, model) for side in (a, b))
    return ids_a if ids_a == ids_b else None


def _embedding(capture: Capture, model: Model) -> Rows | None:
    """The captured embedding `[tokens, width]` as rows of the table, without the scale that Gemma has; None where it is
    not there, or is no embedding of the model."""
    node = Node(0, ENTRY)
    values = held_values(capture, node) if node in capture.files else None
    width = model.config.graph.hidden
    if values is None or isinstance(values, Lost) or not values.size or values.size % width:
        return None
    rows = np.asarray(values.reshape(-1, width), np.float64) / model.config.embedding_scale
    return rows if np.isfinite(rows).all() else None


def _are(tokens: Sequence[int], rows: Rows, model: Model) -> bool:
    """Whether each of `rows` is the table's row of its token."""
    (table,) = model.params(Node(0, ENTRY))
    distances = np.linalg.norm(rows - table.dequantize(list(tokens)), axis=1)
    return bool(np.all(distances <= _NEAR * np.linalg.norm(rows, axis=1) + EMBEDDING_REL_L2))


def _nearest(rows: Rows, model: Model) -> list[int]:
    """For each row the token whose table row is nearest."""
    (table,) = model.params(Node(0, ENTRY))
    own = (rows**2).sum(1)
    best, found = np.full(len(rows), np.inf), np.zeros(len(rows), np.intp)
    for start in range(0, table.rows, _ROWS):
        part = table.dequantize(slice(start, min(start + _ROWS, table.rows))).astype(np.float64)
        squares = own[:, None] - 2 * rows @ part.T + (part**2).sum(1)
        at = squares.argmin(1)
        least = squares[np.arange(len(rows)), at]
        closer = least < best
        best[closer], found[closer] = least[closer], start + at[closer]
    # How near that is, is not known: the difference of squares loses half the digits.
    return found.tolist()
