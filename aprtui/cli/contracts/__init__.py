"""`aprtui contracts`: what is claimed, whether it is well formed, and whether it holds."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

from aprtui.cli.lazy_group import LazyGroup

SUBCOMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "validate": "Check that contracts are well formed, by the codes of pv validate.",
        "lint": "Find things that contracts name and that do not exist, and claims without evidence.",
        "audit": "Say how well contracts are covered: score, level, and what is missing, as pv does.",
        "explain": "Say what the code of a finding demands, and what to do about it.",
        "check": "Judge what contracts claim on the captures at hand.",
        "faults": "Say which faults turn each falsifier red, and which falsifiers no fault can fail.",
        "verify-evidence": "Execute recorded evidence again: the same, moved, or refuted.",
        "status": "Say how far claims go, what evidence carries, and what waits for what.",
        "promote": "Raise the status of falsifiers as far as their evidence carries.",
        "withdraw": "Take back the status of falsifiers.",
        "diff": "Say what changed in meaning between two versions of a contract.",
    }
)
"""Each lives in `aprtui.cli.contracts.<name>` as `command`."""


@click.group(cls=LazyGroup, package="aprtui.cli.contracts", summaries=SUBCOMMANDS)
def command() -> None:
    """Contracts: what is claimed of an engine, by what evidence, and whether it still holds."""
