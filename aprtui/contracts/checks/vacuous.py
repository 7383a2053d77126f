"""Checks with parameters that no result can fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from aprtui.contracts.checks.arguments import CheckArguments
from aprtui.contracts.documents.document import CheckCall
from aprtui.errors import UsageError


def _cosine_floor(arguments: CheckArguments) -> str:
    return "no cosine is below -1" if arguments.number("at_least", 0) <= -1 else ""


def _divergence(arguments: CheckArguments) -> str:
    return "every cosine is below that" if arguments.number("below", 0) > 1 else ""


def _rel_l2_ceiling(arguments: CheckArguments) -> str:
    return "no error is above that" if arguments.number("at_most", 0) == math.inf else ""


def _sigma_band(arguments: CheckArguments) -> str:
    low, high = arguments.number("low", 0.5), arguments.number("high", 2)
    return "every ratio is within that" if low <= 1e-9 and high >= 1e9 else ""


def _throughput(arguments: CheckArguments) -> str:
    return "every speed is that much" if arguments.number("at_least", 1) <= 0 else ""


_RULES: Mapping[str, Callable[[CheckArguments], str]] = MappingProxyType(
    {
        "cosine_floor": _cosine_floor,
        "divergence_localised": _divergence,
        "rel_l2_ceiling": _rel_l2_ceiling,
        "sigma_band": _sigma_band,
        "throughput_floor": _throughput,
    }
)


def why_vacuous(check: CheckCall) -> str:
    """Why the parameters of a check let no result fail; empty where one can, or where they are wrong."""
    rule = _RULES.get(check.name)
    try:
        return "" if rule is None else rule(CheckArguments(check.parameters, None))
    except UsageError:
        return ""
