"""The values that a hypothesis is tested on. T = tokens, W = width; maps are laid out as rows of queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.comparison import Hypothesis, Support
from aprtui.trace.graph import GraphConfig, Stage

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

MOST_VALUES = 1_000_000
"""The most values that are looked at: of larger stages, evenly spaced tokens. About ten float64 copies are alive."""
SAME = 0.02
"""Two tensors count as the same where this much relative L2 is between them, the error being far larger."""


@dataclass(frozen=True)
class StageEvidence:
    """The values of the blamed stage: what it should have been, what was found, and what else is known.

    `expected` and `found` are `[T, W]`, or `[heads, T, T]` of which key ≤ query counts. `bound` is what a token's
    relative error may be. `siblings` are other tensors of the same shape by what they are: inputs of the stage, the
    product beside it. `known` are named vectors `[W]`, as its bias. `worst` are tokens that must be looked at.
    """

    stage: Stage
    config: GraphConfig | None
    expected: Array
    found: Array
    bound: float
    siblings: Mapping[str, Array] = field(default_factory=dict)
    known: Mapping[str, Array] = field(default_factory=dict)
    worst: tuple[int, ...] = ()

    @cached_property
    def rows(self) -> NDArray[np.intp]:
        """The tokens that are looked at: all, or evenly spaced ones with the first and the last."""
        tokens = self.expected.shape[-2]
        width = max(1, self.expected.size // max(1, tokens))
        count = max(2, min(tokens, MOST_VALUES // width))
        spaced = np.linspace(0, tokens - 1, min(tokens, count)).astype(np.intp)
        return np.unique(np.concatenate([spaced, np.array(self.worst, np.intp)]))

    def chosen(self, values: Array) -> Array:
        """The `rows` of a tensor, `[rows, W]`; of maps `[rows, heads * T]`, zero where key > query."""
        if values.ndim == 3:
            visible = np.arange(values.shape[2])[None, :] <= self.rows[:, None]
            maps = np.where(visible[:, None, :], values[:, self.rows].swapaxes(0, 1), np.float32(0))
            return np.asarray(maps.reshape(len(self.rows), -1), np.float32)
        return np.asarray(values[self.rows], np.float32)

    def matrix(self, values: Array) -> Wide:
        """The `rows` in float64, 0 where either side is NaN or Inf: that is no difference of size."""
        wide = self.chosen(values).astype(np.float64)
        return np.where(self.finite & np.isfinite(wide), wide, 0.0)

    @cached_property
    def finite(self) -> NDArray[np.bool_]:
        """Which of the values looked at are finite on both sides."""
        return np.isfinite(self.chosen(self.expected)) & np.isfinite(self.chosen(self.found))

    @cached_property
    def a(self) -> Wide:
        """What was expected, as a matrix."""
        return self.matrix(self.expected)

    @cached_property
    def b(self) -> Wide:
        """What was found, as a matrix."""
        return self.matrix(self.found)

    @cached_property
    def d(self) -> Wide:
        return self.b - self.a

    @cached_property
    def error(self) -> float:
        """Relative L2 of the whole."""
        return relative(self.b, self.a)

    @cached_property
    def token_errors(self) -> Wide:
        """Relative L2 of each row."""
        norms = np.linalg.norm(self.a, axis=1)
        floor = 1e-3 * np.sqrt(np.mean(norms**2)) if norms.size else 0.0
        divisor = np.maximum(norms, floor or 1.0)
        return np.asarray(np.linalg.norm(self.d, axis=1) / divisor)

    @property
    def wrong_tokens(self) -> NDArray[np.bool_]:
        return np.asarray(self.token_errors > self.bound)

    def heads(self, values: Wide) -> Wide | None:
        """`[rows, heads, channels]`; None where the stage has no heads."""
        if self.expected.ndim == 3:
            return values.reshape(len(values), self.expected.shape[0], -1)
        dim = self.config.head_dim if self.config else 0
        if not dim or self.stage.width % dim or self.stage.width == dim or not self.by_head:
            return None
        return values.reshape(len(values), -1, dim)

    @property
    def by_head(self) -> bool:
        return self.config is not None and self.stage.width in (self.config.q_width, self.config.kv_width)


def relative(b: Wide, a: Wide) -> float:
    """|b − a| / |a|; 0 where both are zero, inf where only a is."""
    distance, norm = float(np.linalg.norm(b - a)), float(np.linalg.norm(a))
    return 0.0 if distance == 0 else distance / norm if norm else float("inf")


Outcome = tuple[Support, str]
"""What the values say of a signature, and the numbers that say so."""

Test = Callable[[StageEvidence], Outcome]
Signature = Callable[[StageEvidence], Hypothesis]


def supported_if(holds: bool) -> Support:
    return Support.SUPPORTED if holds else Support.REFUTED


def signature(name: str, cause: str) -> Callable[[Test], Signature]:
    """Makes a test of the values into the signature `name`; `cause` is what usually causes it."""

    def decorate(test: Test) -> Signature:
        @wraps(test)
        def hypothesis(evidence: StageEvidence) -> Hypothesis:
            support, text = test(evidence)
            return Hypothesis(name, support, text, cause)

        return hypothesis

    return decorate
