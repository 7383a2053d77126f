"""All signatures, in the order in which they are listed."""

from __future__ import annotations

from aprtui.compare.comparison import Hypothesis, Support
from aprtui.compare.explain.hypotheses import signatures, tokens, values
from aprtui.compare.explain.hypotheses.evidence import Signature, StageEvidence

SIGNATURES: tuple[Signature, ...] = (
    values.not_finite,
    values.another_tensor,
    values.scaled,
    values.scaled_per_token,
    values.scaled_per_channel,
    values.same_vector,
    tokens.stale_token,
    tokens.later_tokens,
    tokens.last_token,
    signatures.rope,
    signatures.rope_layout,
    signatures.heads_permuted,
    signatures.one_head,
    signatures.every_kth,
    signatures.few_channels,
    signatures.block,
    values.zeros,
    values.sixteen_bits,
    values.noise,
)

_ORDER = tuple(Support)


def hypothesise(evidence: StageEvidence) -> tuple[Hypothesis, ...]:
    """Every signature held against the evidence, those supported first. None of them changes a verdict."""
    found = [signature(evidence) for signature in SIGNATURES]
    return tuple(sorted(found, key=lambda hypothesis: _ORDER.index(hypothesis.support)))
