"""What a token's figures say about how sure the model was, as a tint and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from aprtui.engine.logit_noise import LogitNoise
from aprtui.tui.draw.colours import TINTS
from aprtui.tui.draw.numbers import percent
from aprtui.tui.draw.text import quoted

MOST_ENTROPY = 5.0
MOST_MARGIN = 8.0
LEAST_RISK = 5e-5
"""Ends of the scales: nats, logits, and the flip risk below which there is no colour."""


class TintSignal(StrEnum):
    """What tints the tokens."""

    PROBABILITY = "probability"
    ENTROPY = "entropy"
    MARGIN = "margin"
    FLIP_RISK = "flip risk"
    NONE = "none"

    @property
    def following(self) -> TintSignal:
        every = list(TintSignal)
        return every[(every.index(self) + 1) % len(every)]

    @property
    def ends(self) -> tuple[str, str]:
        """What the sure and the unsure end of the colour scale mean."""
        return _ENDS[self]


_ENDS = {
    TintSignal.PROBABILITY: ("100 %", "0 %"),
    TintSignal.ENTROPY: ("0", f"{MOST_ENTROPY:g} nats"),
    TintSignal.MARGIN: (f"{MOST_MARGIN:g}", "0"),
    TintSignal.FLIP_RISK: (f"{100 * LEAST_RISK:g} %", "50 %"),
    TintSignal.NONE: ("", ""),
}


@dataclass(frozen=True, slots=True)
class TokenFigures:
    """One token and the model's own figures for it, as in `sampling.Choice`."""

    name: str
    id: int
    logprob: float
    entropy: float
    margin: float


def flip_risk(margin: float, noise: LogitNoise) -> float:
    """The probability that an engine that rounds differently would find another token likeliest.

    Two logits, each with an independent normal error of the measured deviation, change places. It is an estimate: the
    noise is that of the model as a whole, not of this position. 0 for an infinite margin, NaN where the noise is.
    """
    if noise.deviation == 0:
        return 0.5 if margin == 0 else 0.0
    return 0.5 * math.erfc(margin / (2 * noise.deviation))


def tint(signal: TintSignal, token: TokenFigures, noise: LogitNoise | None) -> int | None:
    """The tint of a token, 0 (sure) … TINTS - 1 (unsure); None where there is nothing to show."""
    unsure = _unsure(signal, token, noise)
    if unsure is None or math.isnan(unsure):
        return None
    return min(int(min(max(unsure, 0.0), 1.0) * TINTS), TINTS - 1)


def _unsure(signal: TintSignal, token: TokenFigures, noise: LogitNoise | None) -> float | None:
    match signal:
        case TintSignal.PROBABILITY:
            return 1 - math.exp(token.logprob)
        case TintSignal.ENTROPY:
            return token.entropy / MOST_ENTROPY
        case TintSignal.MARGIN:
            return 1 - token.margin / MOST_MARGIN
        case TintSignal.FLIP_RISK if noise is not None:
            risk = max(flip_risk(token.margin, noise), LEAST_RISK)
            return 1 - math.log(0.5 / risk) / math.log(0.5 / LEAST_RISK)
    return None


def token_words(token: TokenFigures, noise: LogitNoise | None, first: TintSignal = TintSignal.PROBABILITY) -> list[str]:
    """A token, and what is known of it, the signal `first` before the others."""
    fields = {
        TintSignal.PROBABILITY: f"probability {percent(math.exp(token.logprob))}",
        TintSignal.ENTROPY: f"entropy {token.entropy:.2f} nats",
        TintSignal.MARGIN: f"margin {token.margin:.2f}",
        TintSignal.FLIP_RISK: "flip risk not measured",
    }
    if noise is not None:
        times = token.margin / noise.deviation if noise.deviation else math.inf
        fields[TintSignal.MARGIN] += f" = {times:.3g} × noise"
        fields[TintSignal.FLIP_RISK] = f"flip risk {percent(flip_risk(token.margin, noise))} (estimate)"
    order = sorted(fields, key=lambda signal: signal is not first)
    return [f"{quoted(token.name)} id {token.id}", *(fields[signal] for signal in order)]
