"""Which inputs of an op reach back over all positions, and how many rows of each input an op needs."""

from __future__ import annotations

from aprtui.trace.graph.ops import Op

ATTENTION_HISTORY: frozenset[tuple[Op, int]] = frozenset({(Op.SCORES, 1), (Op.ATTEND, 1)})
"""Those of attention, by op and number of the input: the keys of the scores, the values of the attention."""

HISTORY: frozenset[tuple[Op, int]] = ATTENTION_HISTORY | {
    (Op.CONVOLUTION, 0),
    *((Op.DELTA_STATE, index) for index in range(4)),
    *((Op.DELTA_OUTPUT, index) for index in range(2, 6)),
}
"""The same with those of recurrences: what went into the convolution and into the state."""

STATE_INPUT = (Op.DELTA_OUTPUT, 0)
"""The input that is the state after the last position."""


def rows_needed(op: Op, index: int, rows: int, total: int) -> int:
    """How many rows, the last ones, of input `index` the last `rows` of `total` positions of an op need.

    The state alone gives the output of the last position: nothing else but the query is read then.
    """
    if (op, index) == STATE_INPUT:
        return 1
    if op is Op.DELTA_OUTPUT and rows == 1 and index > 1:
        return 0
    return total if (op, index) in HISTORY else rows
