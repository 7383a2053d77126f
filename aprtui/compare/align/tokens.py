"""Token alignment: which positions of two captures may be compared at all. It comes before any number.

Token ids come from a capture's own record (its manifest, `_PROVENANCE.txt`) or from the user. Where a side has none,
two captures count as aligned if their `embedding` agrees, but for 16 bits that a side keeps it in, and tells tokens
apart: it is finite, and neither constant nor the same row again and again. Nothing else proves that positions mean the
same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aprtui.compare.metrics.blocks import Values
from aprtui.compare.metrics.measure import compare_values
from aprtui.compare.survey import Lost, held_values
from aprtui.compare.wording import counted, first_tokens
from aprtui.errors import UsageError
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import ENTRY, Node

EMBEDDING_REL_L2 = 1e-6
"""Two engines that look up the same rows differ by at most a rounding of the table; other tokens differ by about √2."""
_HALF_STEP = 2.0**-8
"""Of bfloat16, relative to the value, at most."""
_LEAST_STEP = 2.0**-24
"""Of float16 next to zero."""

USER_SOURCE = "--tokens"
EMBEDDING_SOURCE = "embedding"


@dataclass(frozen=True, slots=True)
class TokenAlignment:
    """How the positions of two captures, A and B, correspond.

    `aligned` positions from the start may be compared: None means all, their number being unknown; 0 means none.
    `counts` are the positions each side holds, None where unknown. `problem` says why the verdict cannot be PASS, and
    `proven_different` that a difference cannot make it FAIL either: the sides were fed different tokens.
    """

    aligned: int | None
    counts: tuple[int | None, int | None]
    sources: tuple[str | None, str | None]
    problem: str | None = None
    proven_different: bool = False
    shared_only: bool = False

    @property
    def doubt(self) -> str | None:
        """The problem, unless what it leaves is all that is asked about."""
        return None if self.shared_only and self.aligned else self.problem


def align_tokens(a: Capture, b: Capture, given: Sequence[int] | None = None) -> TokenAlignment:
    """Align the positions of two captures; `given` are ids that the user states for sides that record none.

    Raises `UsageError` where `given` contradicts what a capture says about itself.
    """
    ids_a, source_a = _token_ids(a, given)
    ids_b, source_b = _token_ids(b, given)
    counts = (len(ids_a) if ids_a is not None else a.token_count, len(ids_b) if ids_b is not None else b.token_count)
    if ids_a is None or ids_b is None:
        return _align_by_embedding(a, b, counts)
    sources = (source_a, source_b)
    common = _common_prefix(ids_a, ids_b)
    if common < min(len(ids_a), len(ids_b)):
        return TokenAlignment(
            common, counts, sources,
            f"token ids differ from position {common} on: A has {_token_text(a, ids_a, common)}, "
            f"B has {_token_text(b, ids_b, common)}",
            proven_different=True,
        )  # fmt: skip
    positions = _first_position_difference(a, b, common)
    if positions is not None:
        return TokenAlignment(
            positions, counts, sources, f"the same tokens stand at other positions from token {positions} on",
            proven_different=True,
        )  # fmt: skip
    if len(ids_a) != len(ids_b):
        problem = f"A holds {counted(len(ids_a), 'token')}, B {len(ids_b)}: only {first_tokens(common)} can be compared"
        return TokenAlignment(common, counts, sources, problem)
    return TokenAlignment(common, counts, sources)


def _token_ids(capture: Capture, given: Sequence[int] | None) -> tuple[tuple[int, ...] | None, str | None]:
    if given is None:
        return capture.tokens, capture.token_source
    if capture.tokens is not None:
        if tuple(given) != capture.tokens:
            at = _common_prefix(capture.tokens, given)
            raise UsageError(
                f"--tokens: differ from the ids that {capture.path} records ({capture.token_source}) at position {at}: "
                "leave --tokens out"
            )
        return capture.tokens, capture.token_source
    if capture.token_count is not None and capture.token_count != len(given):
        held = counted(capture.token_count, "token")
        raise UsageError(f"--tokens: {counted(len(given), 'id')} given, {capture.path} holds {held}: give one a token")
    return tuple(given), USER_SOURCE


def _token_text(capture: Capture, ids: Sequence[int], at: int) -> str:
    """A token's id, and its text where the capture has it."""
    pieces = capture.pieces
    return f"{ids[at]}" if pieces is None else f"{ids[at]} {json.dumps(pieces[at], ensure_ascii=False)}"


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))


def _first_position_difference(a: Capture, b: Capture, common: int) -> int | None:
    if a.manifest is None or b.manifest is None:
        return None
    same = _common_prefix(a.manifest.positions[:common], b.manifest.positions[:common])
    return same if same < common else None


def _align_by_embedding(a: Capture, b: Capture, counts: tuple[int | None, int | None]) -> TokenAlignment:
    """Aligned where both `embedding` stages hold the same values, and those tell tokens apart; else nothing is."""
    problem = _embedding_problem(_embedding(a), _embedding(b))
    if problem:
        problem = f"token ids are not recorded and {problem}: give the ids with --tokens"
        return TokenAlignment(0, counts, (None, None), problem)
    count = counts[0] if counts[0] is not None else counts[1]
    return TokenAlignment(count, (count, count), (EMBEDDING_SOURCE, EMBEDDING_SOURCE))


def _embedding(capture: Capture) -> Values | None:
    node = Node(0, ENTRY)
    values = held_values(capture, node) if node in capture.files else None
    return None if values is None or isinstance(values, Lost) else values.reshape(-1)


def _embedding_problem(a: Values | None, b: Values | None) -> str | None:
    """Why two `embedding` stages prove nothing about tokens; None where they do."""
    if a is None or b is None:
        return f"{'A' if a is None else 'B'} has no {ENTRY} stage"
    if a.size != b.size or not a.size:
        return f"the {ENTRY} stages differ in size" if a.size != b.size else f"the {ENTRY} stages are empty"
    metrics = compare_values(a, b)
    if metrics.compared < metrics.count:
        return f"the {ENTRY} stages hold NaN or Inf"
    is_close = metrics.rel_l2 is not None and metrics.rel_l2 <= EMBEDDING_REL_L2
    if not is_close and not _differ_by_16_bits(a, b):
        return f"the {ENTRY} stages differ"
    if _repeats(a):
        return f"the {ENTRY} stages are constant or hold one row for every token, which tells no tokens apart"
    return None


def _differ_by_16_bits(a: Values, b: Values) -> bool:
    """Whether one of them is kept in float16 or bfloat16, and each value of the other rounds to about it: those of
    another token do not."""
    if not (_fits_16_bits(a) or _fits_16_bits(b)):
        return False
    half_step = _HALF_STEP * np.maximum(np.abs(a), np.abs(b)) + _LEAST_STEP
    return bool((np.abs(a - b) <= half_step).all())


def _fits_16_bits(values: Values) -> bool:
    with np.errstate(over="ignore"):
        is_float16 = np.array_equal(values.astype(np.float16).astype(np.float32), values)
    return is_float16 or not (np.ascontiguousarray(values, np.float32).view(np.uint32) & 0xFFFF).any()


def _repeats(values: Values) -> bool:
    """Whether 1-D `values` are some number of equal rows, a constant included, whatever the width of a row is."""
    return values.size == 1 or any(
        bool((values.reshape(rows, -1) == values[: values.size // rows]).all()) for rows in _prime_factors(values.size)
    )


def _prime_factors(number: int) -> Iterator[int]:
    # Equal rows are equal in p groups too, for every prime p that divides their number: no other split needs a look.
    factor = 2
    while factor * factor <= number:
        if number % factor == 0:
            yield factor
            while number % factor == 0:
                number //= factor
        factor += 1
    if number > 1:
        yield number
