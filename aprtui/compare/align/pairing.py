"""Bringing one stage of two captures into one shape: the same rows, the same channel order.

Every pair says in words how it was matched, because a number on rows that do not belong together is worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from aprtui.compare.align.layout import rope_order
from aprtui.compare.align.tokens import TokenAlignment
from aprtui.compare.metrics.blocks import Values, unravel
from aprtui.compare.survey import DAMAGED, Lost, held_values
from aprtui.compare.wording import counted, first_tokens
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Axis
from aprtui.trace.graph.stage import Node, Stage

_PADDING = 0.02
"""Share of a vocabulary, at most, that makes it round."""


@dataclass(frozen=True, slots=True)
class StagePair:
    """One stage of A and B in one shape. `axes` is empty where the shape is unknown: the values are then 1-D.

    `first_token` is the position of row 0; `matched` says in words how the sides were matched.
    """

    node: Node
    a: Values
    b: Values
    axes: tuple[Axis, ...]
    first_token: int
    matched: str

    @property
    def causal(self) -> bool:
        """Whether only key ≤ query counts."""
        return Axis.QUERY in self.axes

    def place(self, index: int) -> dict[str, int]:
        """Names of the flat `index`: token and channel, head, query and key, or the element where no shape is known."""
        if not self.axes:
            return {"element": index}
        coordinates = unravel(index, self.a.shape)
        if self.causal:
            return dict(zip(("head", "query", "key"), coordinates, strict=True))
        return {"token": coordinates[0] + self.first_token, "channel": coordinates[1]}


@dataclass(frozen=True, slots=True)
class Unpaired:
    """A stage that was not compared, and why. `side` is the only side that has it, None if both or neither do."""

    node: Node
    side: str | None
    reason: str

    @property
    def damaged(self) -> bool:
        """Whether a file that cannot be read is the reason: an answer is owed, whatever may be missing."""
        return self.reason.startswith(DAMAGED)


def pair_stage(a: Capture, b: Capture, stage: Stage, node: Node, tokens: TokenAlignment) -> StagePair | Unpaired:
    """Match `node`, which both captures have a file of."""
    values_a, values_b = held_values(a, node), held_values(b, node)
    if isinstance(values_a, Lost) or isinstance(values_b, Lost):
        return _lost(node, values_a, values_b)
    if stage.holds_logits and (cut := _in_narrower_vocabulary(values_a, values_b, stage, tokens)):
        pair = _pair_rows(*cut, stage, node, tokens)
        if isinstance(pair, StagePair):
            return replace(pair, matched=f"{pair.matched}; the first {cut[0].shape[1]} tokens of the vocabulary")
    shape_a = _known_shape(values_a, stage, tokens.counts[0])
    shape_b = _known_shape(values_b, stage, tokens.counts[1])
    shape_a = shape_a or _shape_like(shape_b, values_a, tokens.counts[0])
    shape_b = shape_b or _shape_like(shape_a, values_b, tokens.counts[1])
    if shape_a is None or shape_b is None:
        return _pair_flat(values_a, values_b, stage, node, tokens)
    values_a, values_b = values_a.reshape(shape_a), values_b.reshape(shape_b)
    if stage.is_attention_map:
        return _pair_maps(values_a, values_b, stage, node, tokens)
    pair = _pair_rows(values_a, values_b, stage, node, tokens)
    return pair if isinstance(pair, Unpaired) else _in_layout_of_a(pair, a, b)


def _in_narrower_vocabulary(
    a: Values, b: Values, stage: Stage, tokens: TokenAlignment
) -> tuple[Values, Values] | None:  # fmt: skip
    """Logits `[rows, vocabulary]` of the tokens that both sides have, where one side's vocabulary is padded; None where
    that is not so, or their number tells no rows: those of all positions and of the last one may both fit."""
    counts = [_rows(values, stage, count) for values, count in zip((a, b), tokens.counts, strict=True)]
    found = []
    for rows_a, rows_b in product(*counts):
        wide_a, wide_b = a.reshape(rows_a, -1), b.reshape(rows_b, -1)
        narrower, wider = sorted((wide_a.shape[1], wide_b.shape[1]))
        if narrower < wider <= narrower * (1 + _PADDING):
            found.append((wide_a[:, :narrower], wide_b[:, :narrower]))
    return found[0] if len(found) == 1 else None


def _rows(values: Values, stage: Stage, tokens: int | None) -> set[int]:
    """How many rows logits may be, in any vocabulary."""
    known = _known_shape(values, stage, tokens)
    if known is not None:
        return {known[0]} if len(known) == 2 and values.size else set()
    return {rows for rows in (1, tokens) if tokens and rows and values.size and not values.size % rows}


def _lost(node: Node, a: Values | Lost, b: Values | Lost) -> Unpaired:
    sides: dict[str, list[str]] = {}
    for name, values in (("A", a), ("B", b)):
        if isinstance(values, Lost):
            sides.setdefault(values.reason, []).append(name)
    side = "b" if not isinstance(b, Lost) else "a" if not isinstance(a, Lost) else None
    # Damage first: it is what can be repaired.
    reasons = sorted(sides, key=lambda reason: not reason.startswith(DAMAGED))
    return Unpaired(node, side, "; ".join(f"{reason} ({' and '.join(sides[reason])})" for reason in reasons))


def _known_shape(values: Values, stage: Stage, tokens: int | None) -> tuple[int, ...] | None:
    """The shape that the stage's width gives, the one the capture states, or the one that a known token count leaves no
    choice about."""
    rows = values.size // stage.width if stage.width and not stage.is_attention_map else 0
    if rows and rows * stage.width == values.size and rows in (1, tokens):
        return rows, stage.width
    if values.ndim > 1:
        return values.shape
    if not tokens or not values.size:
        return None
    if stage.is_attention_map:
        return None if values.size % tokens**2 else (values.size // tokens**2, tokens, tokens)
    # Logits may be those of all positions or of the last one; their number alone does not tell.
    if values.size % tokens or (stage.of_last_position and tokens > 1):
        return None
    return tokens, values.size // tokens


def _shape_like(other: tuple[int, ...] | None, values: Values, tokens: int | None) -> tuple[int, ...] | None:
    """The shape of `values` if the other side's width is theirs too, and the rows are all tokens or the last one."""
    if other is None or len(other) != 2 or not values.size or values.size % other[1]:
        return None
    rows = values.size // other[1]
    return (rows, other[1]) if rows in (1, tokens) else None


def _pair_flat(a: Values, b: Values, stage: Stage, node: Node, tokens: TokenAlignment) -> StagePair | Unpaired:
    a, b = a.reshape(-1), b.reshape(-1)
    if a.size != b.size:
        return _last_logits(a, b, stage, node, tokens) or Unpaired(
            node, None, f"A holds {counted(a.size, 'value')}, B {b.size}, and no token count tells how they correspond"
        )
    if stage.is_attention_map:
        return Unpaired(node, None, "the token count is unknown, so key ≤ query is not known: give --tokens")
    if tokens.problem:
        return Unpaired(node, None, "its shape is unknown, so the positions that are aligned are not known")
    return StagePair(node, a, b, (), 0, "element by element, shape unknown")


def _last_logits(a: Values, b: Values, stage: Stage, node: Node, tokens: TokenAlignment) -> StagePair | None:
    """Logits of all positions against those of the last one, where the sizes differ by just the token count."""
    count = tokens.aligned
    if Axis.VOCABULARY not in stage.axes or not count or tokens.problem:
        return None
    width = min(a.size, b.size)
    if max(a.size, b.size) != width * count:
        return None
    pair = _pair_rows(a.reshape(-1, width), b.reshape(-1, width), stage, node, tokens)
    return None if isinstance(pair, Unpaired) else pair


def _pair_maps(a: Values, b: Values, stage: Stage, node: Node, tokens: TokenAlignment) -> StagePair | Unpaired:
    if a.shape[0] != b.shape[0]:
        return Unpaired(node, None, f"A has {counted(a.shape[0], 'head')}, B {b.shape[0]}")
    if a.shape == b.shape and not tokens.problem:
        return StagePair(node, a, b, stage.axes, 0, "all tokens, key ≤ query")
    n = tokens.aligned
    if n is None or n > min(a.shape[1], b.shape[1]):
        return Unpaired(node, None, f"A is {_shape_text(a)}, B {_shape_text(b)}")
    return StagePair(node, a[:, :n, :n], b[:, :n, :n], stage.axes, 0, f"{first_tokens(n)}, key ≤ query")


def _pair_rows(a: Values, b: Values, stage: Stage, node: Node, tokens: TokenAlignment) -> StagePair | Unpaired:
    if a.shape[1] != b.shape[1]:
        return Unpaired(node, None, f"A is {_shape_text(a)}, B {_shape_text(b)}")
    rows_a, rows_b = a.shape[0], b.shape[0]
    count_a, count_b = tokens.counts
    last_a, last_b = _is_last_only(rows_a, count_a), _is_last_only(rows_b, count_b)
    if tokens.problem and (last_a or last_b):
        return Unpaired(node, None, "holds the last position only, and the last positions are not aligned")
    if tokens.problem:
        n = tokens.aligned or 0
        return StagePair(node, a[:n], b[:n], stage.axes, 0, first_tokens(n))
    if rows_a == rows_b:
        first = count_a - rows_a if count_a and rows_a < count_a else 0
        some = f"the last {counted(rows_a, 'token')}" if first else "all tokens"
        return StagePair(node, a, b, stage.axes, first, "the last token" if last_a else some)
    if last_b and rows_a == count_a:
        return StagePair(node, a[-1:], b, stage.axes, rows_a - 1, f"the last of A's {rows_a} tokens, B's only one")
    if last_a and rows_b == count_b:
        return StagePair(node, a, b[-1:], stage.axes, rows_b - 1, f"A's only token, the last of B's {rows_b}")
    return Unpaired(node, None, f"A is {_shape_text(a)}, B {_shape_text(b)}")


def _is_last_only(rows: int, tokens: int | None) -> bool:
    return rows == 1 and tokens is not None and tokens > 1


def _shape_text(values: Values) -> str:
    return " × ".join(str(size) for size in values.shape)


def _in_layout_of_a(pair: StagePair, a: Capture, b: Capture) -> StagePair:
    """`pair` with B's query and key channels in A's RoPE layout, where both sides state one and they differ."""
    parts = b.graph.rope_parts.get(pair.node.stage)
    if a.manifest is None or b.manifest is None or not parts:
        return pair
    layout_a, layout_b = a.manifest.graph.rope_layout, b.manifest.graph.rope_layout
    if layout_a is layout_b or not pair.axes:
        return pair
    order = rope_order(parts, pair.b.shape[1], b.manifest.graph, layout_b)
    matched = f"{pair.matched}; B's {layout_b} RoPE channels put in A's {layout_a} order"
    return StagePair(pair.node, pair.a, pair.b[:, order], pair.axes, pair.first_token, matched)
