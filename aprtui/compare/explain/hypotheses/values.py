"""Signatures in the values themselves: scales, biases, swapped or dropped tensors, zeros, NaN, 16-bit types, noise."""

from __future__ import annotations

import numpy as np

from aprtui.compare.explain.hypotheses.evidence import SAME, Hypothesis, StageEvidence, Support, relative, supported_if

_SIXTEEN_BITS = {"bfloat16": 0xFFFF, "float16": 0x1FFF}
"""Mantissa bits that a type leaves zero; what leaves more of them zero comes first."""
_MOST = 0.9
"""Share of the channels that a signature of all channels must show in."""


def scaled(evidence: StageEvidence) -> Hypothesis:
    """Found is a constant times expected."""
    name, cause = "a constant factor", "a scale that is missing or applied twice"
    norm = float((evidence.a**2).sum())
    if not norm:
        return Hypothesis(name, Support.UNTESTED, "all expected values are zero", cause)
    factor = float((evidence.a * evidence.b).sum()) / norm
    rest = relative(evidence.b, factor * evidence.a) if factor else float("inf")
    text = f"found is {factor:.6g} × expected, leaving {rest:.3g} of {evidence.error:.3g}"
    return Hypothesis(name, supported_if(rest < 0.1 * evidence.error), text, cause)


def scaled_per_token(evidence: StageEvidence) -> Hypothesis:
    """Found is expected times a factor of each token's own."""
    name, cause = "a factor for each token", "a normalisation: its epsilon, or the mean that it divides by"
    norms = (evidence.a**2).sum(1)
    if evidence.expected.ndim == 3 or not norms.all() or len(norms) < 3:
        return Hypothesis(name, Support.UNTESTED, "needs three tokens other than zero, and no maps", cause)
    factors = (evidence.a * evidence.b).sum(1) / norms
    rest = relative(evidence.b, factors[:, None] * evidence.a)
    spread = float(np.std(factors))
    text = f"factors {factors.min():.6g} … {factors.max():.6g}, leaving {rest:.3g} of {evidence.error:.3g}"
    return Hypothesis(name, supported_if(rest < 0.1 * evidence.error and spread > 0.1 * evidence.error), text, cause)


def scaled_per_channel(evidence: StageEvidence) -> Hypothesis:
    """Found is expected times a factor of each channel's own, in most channels."""
    name, cause = "a factor for each channel", "the weight of a normalisation: missing, applied twice, another layer's"
    norms = (evidence.a**2).sum(0)
    if evidence.expected.ndim == 3 or len(evidence.rows) < 4 or not norms.all():
        return Hypothesis(name, Support.UNTESTED, "needs four tokens of channels that are not zero, and no maps", cause)
    factors = (evidence.a * evidence.b).sum(0) / norms
    rest = relative(evidence.b, factors * evidence.a)
    moved = float(np.mean(np.abs(factors - 1) > 0.1 * evidence.error))
    text = f"factors {factors.min():.4g} … {factors.max():.4g}, leaving {rest:.3g} of {evidence.error:.3g}"
    spread = float(np.std(factors)) > 0.1 * evidence.error
    return Hypothesis(name, supported_if(rest < 0.1 * evidence.error and spread and moved > _MOST), text, cause)


def same_vector(evidence: StageEvidence) -> Hypothesis:
    """The error is one vector, the same at every token."""
    name, cause = "one vector at all tokens", "a bias that is dropped, doubled, or another layer's"
    if evidence.expected.ndim == 3 or len(evidence.rows) < 3 or not evidence.error:
        return Hypothesis(name, Support.UNTESTED, "needs an error at three tokens of a stage without maps", cause)
    mean = evidence.d.mean(0)
    rest = relative(evidence.d, np.broadcast_to(mean, evidence.d.shape))
    text = f"tokens differ from their mean error by {rest:.3g}"
    for label, vector in evidence.known.items():
        for sign, word in ((-1, "dropped"), (1, "doubled")):
            if rest < 0.1 and relative(mean, sign * vector.astype(np.float64)) < 0.1:
                text += f"; it is the {label}, {word}"
    return Hypothesis(name, supported_if(rest < 0.1), text, cause)


def another_tensor(evidence: StageEvidence) -> Hypothesis:
    """Found is another tensor that is known."""
    name, cause = "another tensor", "swapped weights, an op left out, a residual not added, a wrong buffer"
    if not evidence.siblings:
        return Hypothesis(name, Support.UNTESTED, "no other tensor of this shape is at hand", cause)
    errors = {label: relative(evidence.b, evidence.matrix(other)) for label, other in evidence.siblings.items()}
    label = min(errors, key=lambda key: errors[key])
    text = f"nearest is {label}, to rel_l2 {errors[label]:.3g}"
    return Hypothesis(name, supported_if(errors[label] < SAME and errors[label] < 0.1 * evidence.error), text, cause)


def zeros(evidence: StageEvidence) -> Hypothesis:
    """Zeros where none should be."""
    name, cause = "zeros", "memory that was never written, or a loop that ends early"
    lost = (evidence.b == 0) & (evidence.a != 0)
    share = float(lost.mean()) if lost.size else 0.0
    left = relative(evidence.b[~lost], evidence.a[~lost])
    text = f"{100 * share:.3g} % of the values are zero and should not be; the others are off by {left:.3g}"
    return Hypothesis(name, supported_if(bool(lost.any()) and left < 0.1 * evidence.error), text, cause)


def not_finite(evidence: StageEvidence) -> Hypothesis:
    """NaN or Inf appears."""
    name, cause = "NaN or Inf", "a division by zero, an overflow, or memory that was never written"
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
    return Hypothesis(name, supported_if(count > 0), text, cause)


def sixteen_bits(evidence: StageEvidence) -> Hypothesis:
    """Found holds values of a 16-bit type, expected does not."""
    name, cause = "16-bit values", "a buffer or accumulator of 16 bits"
    for kind, mask in _SIXTEEN_BITS.items():
        sides = (evidence.chosen(evidence.found), evidence.chosen(evidence.expected))
        of_found, of_expected = (_share_without(values, mask) for values in sides)
        if of_found == 1 and of_expected < 0.5:
            return Hypothesis(name, Support.SUPPORTED, f"every value found is a {kind}", cause)
    return Hypothesis(name, Support.REFUTED, "the values have the bits of float32", cause)


def _share_without(values: np.ndarray, mask: int) -> float:
    """Share of the values other than 0 whose bits `mask` are all 0."""
    some = np.ascontiguousarray(values[(values != 0) & np.isfinite(values)])
    return float(np.mean((some.view(np.uint32) & np.uint32(mask)) == 0)) if some.size else 0.0


def noise(evidence: StageEvidence) -> Hypothesis:
    """The error is spread over all tokens and channels and goes along with nothing."""
    name, cause = "noise", "arithmetic (rounding, order of sums), other weights, or a race"
    norm_a, norm_d = float(np.linalg.norm(evidence.a)), float(np.linalg.norm(evidence.d))
    if not norm_a or not norm_d or evidence.d.size < 64:
        return Hypothesis(name, Support.UNTESTED, "needs an error in 64 values at least", cause)
    along = abs(float((evidence.a * evidence.d).sum())) / norm_a / norm_d
    squares = np.sort(evidence.d.reshape(-1) ** 2)
    tokens = np.linalg.norm(evidence.d, axis=1)
    even = float(tokens.min() / tokens.max()) if tokens.size else 0.0
    top = float(squares[-max(1, squares.size // 100) :].sum() / squares.sum())
    common = float(np.linalg.norm(evidence.d.mean(0))) * np.sqrt(len(evidence.d)) / norm_d
    common = common if len(evidence.d) > 3 else 0.0
    text = f"along expected {along:.2g}, {100 * top:.0f} % of it in 1 % of the values, common to tokens {common:.2g}"
    spread = top < 0.3 and even > 0.05
    return Hypothesis(name, supported_if(spread and along < 0.15 and common < 0.75), text, cause)
