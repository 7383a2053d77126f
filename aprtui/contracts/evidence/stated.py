"""Evidence that a contract itself states, in the blocks of the family, and the JSON files that they name.

`functional_evidence` is a list of texts; `live_discharge` and `discharged_evidence` are mappings with date, host,
artifact, command and numbers. Nothing here can be held against sources, so it counts as unbound. It counts at all only
where the contract names no check of ours that would record evidence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aprtui.contracts.documents.document import Falsifier, Maturity, StatedEvidence
from aprtui.contracts.evidence.project import Project

ALGORITHM_EVIDENCE, FUNCTIONAL_EVIDENCE = "algorithm_evidence", "functional_evidence"
LIVE_DISCHARGE, DISCHARGED_EVIDENCE = "live_discharge", "discharged_evidence"
EVIDENCE_FILE = "evidence_file"
_BLOCKS = (LIVE_DISCHARGE, DISCHARGED_EVIDENCE)
_MUST_SAY = (("date",), ("host",), ("artifact", "artifacts", "binary"), ("command", "command_chain"))
_VERDICTS = ("verdict", "overall_verdict", "aggregate_verdict")
_FAILED = frozenset({"FAIL", "FAILED", "FALSE", "FALSIFIED", "REFUTED", "DISPROVEN"})
_MOST_BYTES = 1 << 20


def stated_level(falsifier: Falsifier, project: Project) -> Maturity:
    """The highest level that the contract's own blocks speak for; `algorithm_evidence` alone where it names a check."""
    own = [block for block in falsifier.evidence if falsifier.check is None or block.key == ALGORITHM_EVIDENCE]
    return max((_level(block, project) for block in own), default=Maturity.NONE)


def _level(block: StatedEvidence, project: Project) -> Maturity:
    if not (block.texts or block.parts) or _failed(block, project):
        return Maturity.NONE
    if block.key == ALGORITHM_EVIDENCE:
        return Maturity.ALGORITHM
    complete = block.key in _BLOCKS and not missing_parts(block)
    return Maturity.DISCHARGED if complete else Maturity.FUNCTIONAL


def missing_parts(block: StatedEvidence) -> tuple[str, ...]:
    """What a block of live evidence does not say, of date, host, artifact, command and numbers."""
    missing = [names[0] for names in _MUST_SAY if not any(block.parts.get(name) for name in names)]
    if not any(_is_number(text) for texts in block.parts.values() for text in texts):
        missing.append("numbers")
    return tuple(missing)


def _is_number(text: str) -> bool:
    return any(character.isdigit() for character in text) and not text.count("-") > 1


def _failed(block: StatedEvidence, project: Project) -> bool:
    """Whether a JSON file that the block names says that it failed."""
    said = [texts[0] for name in _VERDICTS if (texts := block.parts.get(name))]
    for name in block.parts.get(EVIDENCE_FILE, ()):
        said += [str(found.get(key, "")) for found in _read(project, name) for key in _VERDICTS]
    return any(word.strip().upper() in _FAILED for word in said)


def _read(project: Project, name: str) -> Iterator[Mapping[str, Any]]:
    path = project.file(name)
    if path is None or path.stat().st_size > _MOST_BYTES:
        return
    try:
        found = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(found, dict):
        yield found
