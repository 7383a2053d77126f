"""Signatures in which tokens are wrong: positions, masks, stale buffers, the last token."""

from __future__ import annotations

import numpy as np

from aprtui.compare.comparison import Support
from aprtui.compare.explain.hypotheses.evidence import SAME, Outcome, StageEvidence, relative, signature, supported_if


@signature("positions, mask or K/V cache", "positions, a mask, keys or values of other tokens")
def later_tokens(evidence: StageEvidence) -> Outcome:
    """Token 0 right, most later ones wrong."""
    wrong = evidence.wrong_tokens
    if wrong.size < 3:
        return Support.UNTESTED, "needs three tokens at least"
    share = float(wrong[1:].mean())
    text = f"token 0 is {'wrong' if wrong[0] else 'right'}, of the later ones {100 * share:.0f} % are wrong"
    return supported_if(not wrong[0] and share > 0.5), text


@signature("the last token only", "a path for the last position of its own, or an end that is off by one")
def last_token(evidence: StageEvidence) -> Outcome:
    wrong = evidence.wrong_tokens
    if wrong.size < 3:
        return Support.UNTESTED, "needs three tokens at least"
    text = f"{int(wrong[:-1].sum())} of the tokens before the last are wrong, the last is {'' if wrong[-1] else 'not '}"
    return supported_if(bool(wrong[-1]) and not wrong[:-1].any()), text.rstrip()


@signature("stale token", "a buffer that is read before the new value is written")
def stale_token(evidence: StageEvidence) -> Outcome:
    """Each token holds what belongs to the one before."""
    if len(evidence.rows) < 3 or evidence.expected.ndim == 3 or np.any(np.diff(evidence.rows) != 1):
        return Support.UNTESTED, "needs three neighbouring tokens of a stage without maps"
    error = relative(evidence.b[1:], evidence.a[:-1])
    text = f"found is the token before's to rel_l2 {error:.3g}"
    return supported_if(error < SAME and error < 0.1 * evidence.error), text
