"""Signatures in which tokens are wrong: positions, masks, stale buffers, the last token."""

from __future__ import annotations

import numpy as np

from aprtui.compare.explain.hypotheses.evidence import SAME, Hypothesis, StageEvidence, Support, relative, supported_if


def later_tokens(evidence: StageEvidence) -> Hypothesis:
    """Token 0 right, most later ones wrong."""
    name, cause = (
        "positions, mask or K/V cache",
        "positions, a mask, keys or values of other tokens",
    )
    wrong = evidence.wrong_tokens
    if wrong.size < 3:
        return Hypothesis(name, Support.UNTESTED, "needs three tokens at least", cause)
    share = float(wrong[1:].mean())
    text = f"token 0 is {'wrong' if wrong[0] else 'right'}, of the later ones {100 * share:.0f} % are wrong"
    return Hypothesis(name, supported_if(not wrong[0] and share > 0.5), text, cause)


def last_token(evidence: StageEvidence) -> Hypothesis:
    """Only the last token wrong."""
    name, cause = "the last token only", "a path for the last position of its own, or an end that is off by one"
    wrong = evidence.wrong_tokens
    if wrong.size < 3:
        return Hypothesis(name, Support.UNTESTED, "needs three tokens at least", cause)
    text = f"{int(wrong[:-1].sum())} of the tokens before the last are wrong, the last is {'' if wrong[-1] else 'not '}"
    return Hypothesis(name, supported_if(bool(wrong[-1]) and not wrong[:-1].any()), text.rstrip(), cause)


def stale_token(evidence: StageEvidence) -> Hypothesis:
    """Each token holds what belongs to the one before."""
    name, cause = "stale token", "a buffer that is read before the new value is written"
    if len(evidence.rows) < 3 or evidence.expected.ndim == 3 or np.any(np.diff(evidence.rows) != 1):
        return Hypothesis(name, Support.UNTESTED, "needs three neighbouring tokens of a stage without maps", cause)
    error = relative(evidence.b[1:], evidence.a[:-1])
    text = f"found is the token before's to rel_l2 {error:.3g}"
    return Hypothesis(name, supported_if(error < SAME and error < 0.1 * evidence.error), text, cause)
