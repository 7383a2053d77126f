"""What engines in use are known to compute otherwise than a model's file says.

Such an engine is no wrong one: what it gives is held against its own way, and the verdict says so in its first
sentence. A row is a deviation; who recognises it in a capture names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownDeviation:
    """What an engine does, in words, and which engine."""

    what: str
    engine: str

    def said(self, more: str = "") -> str:
        """The sentence of it, with `more` behind what is done."""
        return f"{self.what}{more}, as {self.engine} has it; the model's own way is not"


GROUPS_BY_TWO = KnownDeviation("groups of experts: scored by their two largest numbers", "llama.cpp")
YARN_IN_WHOLE_PAIRS = KnownDeviation("RoPE: YaRN's range is rounded to whole channel pairs", "llama.cpp")
YARN_OF_USUAL_BETAS = KnownDeviation("RoPE: YaRN's beta_fast and beta_slow are 32 and 1", "llama.cpp")

KNOWN_DEVIATIONS = (GROUPS_BY_TWO, YARN_IN_WHOLE_PAIRS, YARN_OF_USUAL_BETAS)


def deviations_in(statements: Iterable[str]) -> list[str]:
    """Those of the statements that tell of a deviation."""
    return [statement for statement in statements if any(row.what in statement for row in KNOWN_DEVIATIONS)]
