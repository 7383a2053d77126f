"""The verdict on a walk: what jumps, and the figures that it was judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.verdict import Verdict
from aprtui.engine.protocol import Engine
from aprtui.engine.scanning.against import level_of
from aprtui.engine.scanning.jumps import FEWEST, Jump, error_bounds, find_jumps, is_beyond_noise, normal_bound
from aprtui.engine.scanning.walk import Walked
from aprtui.model.model import Model
from aprtui.progress import Progress


@dataclass(frozen=True, slots=True)
class ScanFinding:
    """What jumps, in the order of tokens, and figures of the whole walk: medians and largest values, None without a
    reference. `spreads_largest` is by how many spreads the logarithm of an error is above its median at most, of
    `allowed` ones; flips of the first token are within the noise of the logits or beyond it."""

    verdict: Verdict
    reason: str
    jumps: tuple[Jump, ...]
    entropy: float | None
    entropy_largest: float | None
    error: float | None = None
    error_largest: float | None = None
    spreads_largest: float | None = None
    allowed: float | None = None
    kl: float | None = None
    kl_largest: float | None = None
    flips_within: int = 0
    flips_beyond: int = 0

    def figures(self) -> dict[str, float | int | None]:
        """The figures by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)[3:]}


def judge(
    model: Model, walked: Walked, scanned: Engine, reference: Engine | None, compared: bool, progress: Progress
) -> ScanFinding:
    """The verdict on a walk of `scanned`; `compared` says that it was held against something, `reference` where that
    was an engine."""
    figures = walked.figures
    level = None
    if reference is not None:
        scale = _over((one.scale for one in figures), np.median)
        if scale is not None:
            level = level_of(model, scanned, reference, walked.tokens, scale, progress)
    jumps = tuple(find_jumps(figures, model.config.graph.vocabulary, level))
    entropies = [one.entropy for one in figures]
    bounds = error_bounds(figures) if compared else None
    verdict, reason = _verdict(jumps, len(figures), tell=not compared or bounds is not None)
    alone = ScanFinding(verdict, reason, jumps, _over(entropies, np.median), _over(entropies, np.max))
    if bounds is None:
        return alone
    flips = [(one, bound) for one, bound in zip(figures, bounds.bounds, strict=True) if one.lead]
    beyond = sum(is_beyond_noise(one, bound) for one, bound in flips)
    errors, divergences = [one.error for one in figures], [one.kl for one in figures]
    return replace(
        alone, error=_over(errors, np.median), error_largest=_over(errors, np.max),
        spreads_largest=float(bounds.spreads.max()), allowed=normal_bound(len(figures)),
        kl=_over(divergences, np.mean), kl_largest=_over(divergences, np.max), flips_within=len(flips) - beyond,
        flips_beyond=beyond,
    )  # fmt: skip


def _verdict(jumps: Sequence[Jump], tokens: int, *, tell: bool) -> tuple[Verdict, str]:
    if jumps:
        first = jumps[0]
        return Verdict.FAIL, f"{first.rule} jumps first, at token {first.position}"
    if not tell:
        return Verdict.UNKNOWN, f"{tokens} tokens do not tell what noise is: walk {FEWEST} or more"
    return Verdict.PASS, f"nothing jumps at {tokens} tokens"


def _over(values: Iterable[float | None], reduce: Callable[[NDArray[np.float64]], object]) -> float | None:
    """`reduce` of what is finite; None where nothing is."""
    found = np.array([value for value in values if value is not None and np.isfinite(value)])
    return float(reduce(found)) if found.size else None  # type: ignore[arg-type]
