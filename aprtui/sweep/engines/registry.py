"""The kinds of engines that a plan can name: a row each."""

from __future__ import annotations

from aprtui.sweep.engines.command import COMMAND
from aprtui.sweep.engines.engine import EngineKind, SweepEngine
from aprtui.sweep.engines.oracles import ORACLE
from aprtui.sweep.engines.own import OWN
from aprtui.sweep.fields import PlanField

KINDS: tuple[EngineKind, ...] = (OWN, ORACLE, COMMAND)


def read_engine(field: PlanField) -> SweepEngine:
    """The engine that a plan describes. Raises `UsageError`."""
    every = tuple(dict.fromkeys(name for kind in KINDS for name in kind.fields))
    given = field.fields(every)
    kinds = [kind for kind in KINDS if kind.mark in given]
    if len(kinds) != 1:
        raise field.error(f"expected one of {', '.join(kind.mark for kind in KINDS)}")
    return kinds[0].read(field.fields(kinds[0].fields))
