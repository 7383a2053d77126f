"""Token ids of a capture that records none, from its embedding and the model's table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.tokens import EMBEDDING_REL_L2
from aprtui.compare.survey import Lost, held_values
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import ENTRY, Node

TABLE_SOURCE = "embedding, found in the model's table"

_ROWS = 4096
_NEAR = 1e-2
"""An embedding kept in 16 bits is off by at most this, another token's by about √2."""


def tokens_of(capture: Capture, model: Model) -> tuple[int, ...] | None:
    """The id of each row of the captured embedding; None where a row is no token's, or not that of one alone.

    Ids of tokens whose rows are equal cannot be told apart, and need not be: the first of them is taken.
    """
    node = Node(0, ENTRY)
    values = held_values(capture, node) if node in capture.files else None
    width = model.config.graph.hidden
    if values is None or isinstance(values, Lost) or not values.size or values.size % width:
        return None
    rows = np.asarray(values.reshape(-1, width), np.float64)
    if not np.isfinite(rows).all():
        return None
    nearest, distances = _nearest(rows, model)
    norms = np.sqrt((rows**2).sum(1))
    if np.any(distances > _NEAR * norms + EMBEDDING_REL_L2):
        return None
    return tuple(int(token) for token in nearest)


def known_tokens(a: Capture, b: Capture, model: Model, given: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The token ids of two captures: as each records them, as the user gives them, or as its embedding shows them.

    None where those of a side cannot be known, or differ from the other's.
    """
    ids_a, ids_b = (side.tokens or given or tokens_of(side, model) for side in (a, b))
    return ids_a if ids_a == ids_b else None


def _nearest(rows: NDArray[np.float64], model: Model) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """For each row the token whose table row is nearest, and how far that is."""
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
    # The difference of squares loses half the digits: take the distance itself for the one that was found.
    chosen = table.dequantize([int(token) for token in found]).astype(np.float64)
    return found, np.sqrt(((rows - chosen) ** 2).sum(1))
