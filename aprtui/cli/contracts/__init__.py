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
EXAMPLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "validate": ("contracts validate contracts", "contracts validate my-v1.yaml --json"),
        "lint": (
            "contracts lint contracts --source .",
            "contracts lint contracts --suppress LINT-003@old-v1",
            "contracts lint contracts --baseline known.json --write-baseline",
        ),
        "audit": (
            "contracts audit contracts",
            "contracts audit contracts --binding contracts/binding.yaml --source . --min-score 0.6",
            "contracts audit contracts --suppress 'PV-ENF-*'",
        ),
        "explain": ("contracts explain LINT-012", "contracts explain --json"),
        "check": ("contracts check --capture mine", "contracts check my-v1.yaml --capture mine --id 'MY-*' --record"),
        "faults": ("contracts faults", "contracts faults my-v1.yaml --id 'MY-*' --json"),
        "verify-evidence": (
            "contracts verify-evidence contracts/evidence/forward-parity-v1",
            "contracts verify-evidence FILE.json --model MODEL.gguf --reference hf-capture",
        ),
        "status": ("contracts status", "contracts status contracts --json"),
        "promote": (
            "contracts promote MY-001 FUNCTIONAL contracts",
            "contracts promote MY-001 MY-002 DISCHARGED contracts/my-v1.yaml",
        ),
        "withdraw": (
            "contracts withdraw MY-001 contracts",
            "contracts withdraw MY-001 MY-002 BLOCKER_NO_GPU contracts/my-v1.yaml",
        ),
        "diff": ("contracts diff old-v1.yaml new-v1.yaml", "contracts diff old-v1.yaml new-v1.yaml --json"),
    }
)
"""What `--help` of each ends with, without the program's name."""


@click.group(cls=LazyGroup, package="aprtui.cli.contracts", summaries=SUBCOMMANDS, examples=EXAMPLES)
def command() -> None:
    """Contracts: what is claimed of an engine, by what evidence, and whether it still holds."""
