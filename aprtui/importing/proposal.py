"""A mapping that is proposed: its rules, how sure each is, and the file that they make."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from aprtui.importing.mapping import Rule, TensorMapping, as_document


class Confidence(StrEnum):
    """How sure a rule of a proposal is."""

    SURE = "sure"
    LIKELY = "likely"
    DOUBTFUL = "doubtful"


@dataclass(frozen=True, slots=True)
class GuessedRule:
    rule: Rule
    confidence: Confidence
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuessedMapping:
    """The proposal; doubtful rules stand in it as comments. `unknown` are names that no word answers to, `missing` the
    stages of the model without a tensor."""

    rules: tuple[GuessedRule, ...]
    tokens: str | None
    unknown: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def mapping(self) -> TensorMapping:
        """The rules that are not doubtful."""
        chosen = tuple(entry.rule for entry in self.rules if entry.confidence is not Confidence.DOUBTFUL)
        return TensorMapping(chosen, self.tokens)

    def text(self) -> str:
        """The mapping file: a rule a line, with how sure it is behind it."""
        lines = ["stages:"]
        for stage, entries in groupby(self.rules, lambda entry: entry.rule.stage):
            lines += _lines_of(stage, list(entries))
        if self.tokens is not None:
            lines.append(f"tokens: {json.dumps(self.tokens)}")
        lines += [f"# of no known stage: {name}" for name in self.unknown]
        lines += [f"# stages of the model without a tensor: {', '.join(self.missing)}"] if self.missing else []
        return "\n".join(lines) + "\n"


def _lines_of(stage: str, entries: Sequence[GuessedRule]) -> Iterator[str]:
    """The lines of one stage: a list where several rules make it. A key that stands twice would lose all but the last
    of them."""
    chosen = sum(entry.confidence is not Confidence.DOUBTFUL for entry in entries)
    if chosen > 1:
        yield f"  {stage}:"
    key, indent = ("- ", "    ") if chosen > 1 else (f"{stage}: ", "  ")
    for entry in entries:
        (value,) = as_document(TensorMapping((entry.rule,)))["stages"].values()
        mark = "# " if entry.confidence is Confidence.DOUBTFUL else ""
        yield f"{indent}{mark}{key}{json.dumps(value)}  # {entry.confidence}: {', '.join(entry.reasons)}"
