"""Signatures in the values themselves: scales, biases, swapped or dropped tensors, zeros, NaN, 16-bit types, noise."""

from __future__ import annotations

import numpy as np

from aprtui.compare.comparison import Support
from aprtui.compare.explain.hypotheses.evidence import SAME, Outcome, StageEvidence, relative, signature, supported_if

_SIXTEEN_BITS = {"bfloat16": 0xFFFF, "float16": 0x1FFF}
"""Mantissa bits that a type leaves zero; what leaves more of them zero comes first."""
_MOST = 0.9
"""Share of the channels that a signature of all channels must show in."""


@signature("a constant factor", "a scale that is missing or applied twice")
def scaled(evidence: StageEvidence) -> Outcome:
    norm = float((evidence.a**2).sum())
    if not norm:
        return Support.UNTESTED, "all expected values are zero"
    factor = float((evidence.a * evidence.b).sum()) / norm
    rest = relative(evidence.b, factor * evidence.a) if factor else float("inf")
    text = f"found is {factor:.6g} × expected, leaving {rest:.3g} of {evidence.error:.3g}"
    return supported_if(rest < 0.1 * evidence.error), text


@signature("a factor for each token", "a normalisation: its epsilon, or the mean that it divides by")
def scaled_per_token(evidence: StageEvidence) -> Outcome:
    norms = (evidence.a**2).sum(1)
    if evidence.expected.ndim == 3 or not norms.all() or len(norms) < 3:
        return Support.UNTESTED, "needs three tokens other than zero, and no maps"
    factors = (evidence.a * evidence.b).sum(1) / norms
    rest = relative(evidence.b, factors[:, None] * evidence.a)
    spread = float(np.std(factors))
    text = f"factors {factors.min():.6g} … {factors.max():.6g}, leaving {rest:.3g} of {evidence.error:.3g}"
    return supported_if(rest < 0.1 * evidence.error and spread > 0.1 * evidence.error), text


@signature("a factor for each channel", "the weight of a normalisation: missing, applied twice, another layer's")
def scaled_per_channel(evidence: StageEvidence) -> Outcome:
    """Found is expected times a factor of each channel's own, in most channels."""
    norms = (evidence.a**2).sum(0)
    if evidence.expected.ndim == 3 or len(evidence.rows) < 4 or not norms.all():
        return Support.UNTESTED, "needs four tokens of channels that are not zero, and no maps"
    factors = (evidence.a * evidence.b).sum(0) / norms
    rest = relative(evidence.b, factors * evidence.a)
    moved = float(np.mean(np.abs(factors - 1) > 0.1 * evidence.error))
    text = f"factors {factors.min():.4g} … {factors.max():.4g}, leaving {rest:.3g} of {evidence.error:.3g}"
    spread = float(np.std(factors)) > 0.1 * evidence.error
    return supported_if(rest < 0.1 * evidence.error and spread and moved > _MOST), text


@signature("one vector at all tokens", "a bias that is dropped, doubled, or another layer's")
def same_vector(evidence: StageEvidence) -> Outcome:
    if evidence.expected.ndim == 3 or len(evidence.rows) < 3 or not evidence.error:
        return Support.UNTESTED, "needs an error at three tokens of a stage without maps"
    mean = evidence.d.mean(0)
    rest = relative(evidence.d, np.broadcast_to(mean, evidence.d.shape))
    text = f"tokens differ from their mean error by {rest:.3g}"
    for label, vector in evidence.known.items():
        for sign, word in ((-1, "dropped"), (1, "doubled")):
            if rest < 0.1 and relative(mean, sign * vector.astype(np.float64)) < 0.1:
                text += f"; it is the {label}, {word}"
    return supported_if(rest < 0.1), text


@signature("another tensor", "swapped weights, an op left out, a residual not added, a wrong buffer")
def another_tensor(evidence: StageEvidence) -> Outcome:
    if not evidence.siblings:
        return Support.UNTESTED, "no other tensor of this shape is at hand"
    errors = {label: relative(evidence.b, evidence.matrix(other)) for label, other in evidence.siblings.items()}
    label = min(errors, key=lambda key: errors[key])
    text = f"nearest is {label}, to rel_l2 {errors[label]:.3g}"
    return supported_if(errors[label] < SAME and errors[label] < 0.1 * evidence.error), text


@signature("zeros", "memory that was never written, or a loop that ends early")
def zeros(evidence: StageEvidence) -> Outcome:
    lost = (evidence.b == 0) & (evidence.a != 0)
    share = float(lost.mean()) if lost.size else 0.0
    left = relative(evidence.b[~lost], evidence.a[~lost])
    text = f"{100 * share:.3g} % of the values are zero and should not be; the others are off by {left:.3g}"
    return supported_if(bool(lost.any()) and left < 0.1 * evidence.error), text


@signature("NaN or Inf", "a division by zero, an overflow, or memory that was never written")
def not_finite(evidence: StageEvidence) -> Outcome:
    a, b = evidence.chosen(evidence.expected), evidence.chosen(evidence.found)
    found = ~np.isfinite(b) & np.isfinite(a)
    count = int(found.sum())
    text = f"{count} values"
    if count:
        text += f": {int(np.isnan(b[found]).sum())} NaN, {int(np.isinf(b[found]).sum())} Inf"
        places = np.flatnonzero(found.any(0))
        if evidence.found.ndim == 2:
            text += f", in {places.size} channels: {', '.join(map(str, places[:6]))}"
        beyond, inside = np.abs(a[found]).min(), np.abs(a[evidence.finite])
        if inside.size and beyond > inside.max():
            text += f"; all where expected is beyond {inside.max():.4g}: an overflow"
    return supported_if(count > 0), text


@signature("16-bit values", "a buffer or accumulator of 16 bits")
def sixteen_bits(evidence: StageEvidence) -> Outcome:
    """Found holds values of a 16-bit type, expected does not."""
    for kind, mask in _SIXTEEN_BITS.items():
        sides = (evidence.chosen(evidence.found), evidence.chosen(evidence.expected))
        of_found, of_expected = (_share_without(values, mask) for values in sides)
        if of_found == 1 and of_expected < 0.5:
            return Support.SUPPORTED, f"every value found is a {kind}"
    return Support.REFUTED, "the values have the bits of float32"


def _share_without(values: np.ndarray, mask: int) -> float:
    """Share of the values other than 0 whose bits `mask` are all 0."""
    some = np.ascontiguousarray(values[(values != 0) & np.isfinite(values)])
    return float(np.mean((some.view(np.uint32) & np.uint32(mask)) == 0)) if some.size else 0.0


@signature("noise", "arithmetic (rounding, order of sums), other weights, or a race")
def noise(evidence: StageEvidence) -> Outcome:
    """The error is spread over all tokens and channels and goes along with nothing."""
    norm_a, norm_d = float(np.linalg.norm(evidence.a)), float(np.linalg.norm(evidence.d))
    if not norm_a or not norm_d or evidence.d.size < 64:
        return Support.UNTESTED, "needs an error in 64 values at least"
    along = abs(float((evidence.a * evidence.d).sum())) / norm_a / norm_d
    squares = np.sort(evidence.d.reshape(-1) ** 2)
    tokens = np.linalg.norm(evidence.d, axis=1)
    even = float(tokens.min() / tokens.max()) if tokens.size else 0.0
    top = float(squares[-max(1, squares.size // 100) :].sum() / squares.sum())
    common = float(np.linalg.norm(evidence.d.mean(0))) * np.sqrt(len(evidence.d)) / norm_d
    common = common if len(evidence.d) > 3 else 0.0
    text = f"along expected {along:.2g}, {100 * top:.0f} % of it in 1 % of the values, common to tokens {common:.2g}"
    spread = top < 0.3 and even > 0.05
    return supported_if(spread and along < 0.15 and common < 0.75), text
