"""Floors kept between runs: they cost several forward passes, and depend on model, tokens and roundings alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from aprtui.engine.result_cache import keep
from aprtui.resources import floor_cache
from aprtui.trace.graph import Node

Floors = dict[Node, float]


@cache
def _sources() -> str:
    """A digest of how floors are measured: what another version measured is no floor of this one."""
    engine = Path(__file__).parents[1]
    files = sorted([*engine.glob("floors/*.py"), *engine.glob("replay/*.py"), *engine.glob("reference/*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def remembered(key: Sequence[str], measure: Callable[[], Floors]) -> Floors:
    """The floors under `key`, measured where nobody has yet. A cache that cannot be read or written is done without."""
    name = hashlib.sha256(json.dumps([_sources(), *key]).encode()).hexdigest()[:32]
    path = floor_cache() / f"{name}.json"
    try:
        return {Node(layer, stage): float(floor) for layer, stage, floor in json.loads(path.read_text())}
    except (OSError, ValueError, TypeError):
        pass
    floors = measure()
    keep(path, [[node.layer, node.stage, floor] for node, floor in floors.items()])
    return floors
