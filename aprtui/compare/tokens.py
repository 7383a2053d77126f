"""Token alignment: which positions of two captures may be compared at all. It comes before any number.

Token ids come from a capture's own record (its manifest, `_PROVENANCE.txt`) or from the user. Where a side has none,
two captures count as aligned if their `embedding` agrees. Nothing else proves that positions mean the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aprtui.compare.metrics import compare_values
from aprtui.errors import UsageError
from aprtui.trace.capture import Capture
from aprtui.trace.graph import ENTRY, Node

EMBEDDING_REL_L2 = 1e-6
"""Two engines that look up the same rows differ by at most a rounding of the table; other tokens differ by about √2."""

USER_SOURCE = "--tokens"
EMBEDDING_SOURCE = "embedding"


@dataclass(frozen=True, slots=True)
class TokenAlignment:
    """What is known about the positions of two captures, A and B.

    `aligned` positions from the start may be compared: None means all, their number being unknown; 0 means none.
    `counts` are the positions each side holds, None where unknown. `problem` says why the verdict cannot be PASS, and
    `proven_different` that it cannot be FAIL either: the sides were fed different tokens.
    """

    aligned: int | None
    counts: tuple[int | None, int | None]
    sources: tuple[str | None, str | None]
    problem: str | None = None
    proven_different: bool = False

    @property
    def comparable(self) -> bool:
        """Whether any position may be compared."""
        return self.aligned != 0


def align_tokens(a: Capture, b: Capture, given: Sequence[int] | None = None) -> TokenAlignment:
    """Align the positions of two captures; `given` are ids that the user states for sides that record none.

    Raises `UsageError` where `given` contradicts what a capture says about itself.
    """
    ids_a, source_a = _token_ids(a, given)
    ids_b, source_b = _token_ids(b, given)
    counts = (
        len(ids_a) if ids_a is not None else a.token_count,
        len(ids_b) if ids_b is not None else b.token_count,
    )
    if ids_a is None or ids_b is None:
        return _align_by_embedding(a, b, counts)
    sources = (source_a, source_b)
    common = _common_prefix(ids_a, ids_b)
    if common < min(len(ids_a), len(ids_b)):
        return TokenAlignment(
            common, counts, sources,
            f"token ids differ from position {common} on: A has {ids_a[common]}, B has {ids_b[common]}",
            proven_different=True,
        )  # fmt: skip
    positions = _first_position_difference(a, b, common)
    if positions is not None:
        return TokenAlignment(
            positions, counts, sources, f"the same tokens stand at other positions from token {positions} on",
            proven_different=True,
        )  # fmt: skip
    if len(ids_a) != len(ids_b):
        problem = f"A holds {len(ids_a)} tokens, B {len(ids_b)}: only the first {common} can be compared"
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
        raise UsageError(f"--tokens: {len(given)} ids given, {capture.path} holds {capture.token_count} tokens")
    return tuple(given), USER_SOURCE


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
    """Aligned where both `embedding` stages hold the same values; else nothing is."""
    settle = "give the ids with --tokens"
    node = Node(0, ENTRY)
    if node not in a.files or node not in b.files:
        side = "A" if node not in a.files else "B"
        return TokenAlignment(
            0, counts, (None, None), f"token ids are not recorded and {side} has no {ENTRY} stage: {settle}"
        )
    left, right = a.read(node).values, b.read(node).values
    if left.size != right.size or not left.size:
        return TokenAlignment(
            0, counts, (None, None), f"token ids are not recorded and the {ENTRY} stages differ in size: {settle}"
        )
    metrics = compare_values(left, right)
    agree = not metrics.mismatches and metrics.rel_l2 is not None and metrics.rel_l2 <= EMBEDDING_REL_L2
    if not agree:
        return TokenAlignment(
            0, counts, (None, None), f"token ids are not recorded and the {ENTRY} stages differ: {settle}"
        )
    count = counts[0] if counts[0] is not None else counts[1]
    return TokenAlignment(count, (count, count), (EMBEDDING_SOURCE, EMBEDDING_SOURCE))
