"""Check mappings: files that say which check judges which falsifier of somebody else's contract.

    FALSIFY-X-001: {check: cosine_floor, stages: [lm_head], at_least: 0.99}

A mapping for aprender's falsifiers comes with the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from aprtui.contracts.documents.document import CheckCall, ContractError, Falsifier
from aprtui.yaml_file import YamlMapping, plain, read_yaml, text

CheckMap = Mapping[str, CheckCall]
"""The check that judges a falsifier of somebody else's contract, by the falsifier's id."""


def read_mapping(path: Path) -> dict[str, CheckCall]:
    """The checks by falsifier id. Raises `ContractError` for an entry that names no check, or an id given twice."""
    file = read_yaml(path)
    root = file.mapping("a mapping from the ids of falsifiers to their checks")
    for duplicate in file.duplicates:
        raise ContractError(path, duplicate.line, f"{duplicate.key!r} is already at line {duplicate.first}")
    found = {}
    for name, entry in root.fields.items():
        fields = entry.fields if isinstance(entry, YamlMapping) else {"check": entry}
        check = text(fields.get("check"))
        if not check:
            raise ContractError(path, root.lines[name], f"{name}: names no check: write {{check: NAME}}")
        parameters = {key: plain(value) for key, value in fields.items() if key != "check"}
        found[name] = CheckCall(check, parameters, root.lines[name])
    return found


@cache
def own_mapping() -> dict[str, CheckCall]:
    return read_mapping(Path(__file__).parent / "data" / "aprender.yaml")


def check_of(falsifier: Falsifier, mapping: CheckMap) -> CheckCall | None:
    """The check that the contract names, else the one that `mapping` gives for its id; None where neither does."""
    return falsifier.check or mapping.get(falsifier.id)
