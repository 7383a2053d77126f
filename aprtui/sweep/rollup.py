"""What many verdicts come to: stage × layer × engine, the share that fails, the largest error over its floor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aprtui import __version__
from aprtui.compare.verdict import Verdict
from aprtui.engine.result_cache import python_digest
from aprtui.sweep.folder import SweepFolder
from aprtui.sweep.results import RollupRow
from aprtui.sweep.tasks import digest
from aprtui.trace.aprt import write_atomically
from aprtui.trace.json_value import json_number, json_value


@dataclass(frozen=True, slots=True)
class RollupTask:
    """The verdicts of one pair of engines on one model, with the number of the prompt of each."""

    model: str
    pair: str
    engine: str
    verdicts: tuple[tuple[int, str], ...]

    @property
    def key(self) -> str:
        return digest("rollup", __version__, python_digest("sweep/rollup.py"), *asdict(self).values())


def roll_up(task: RollupTask, root: Path) -> list[RollupRow]:
    """The rows of `task`, from the verdicts in the sweep's folder `root`; kept there under its key."""
    folder = SweepFolder(root)
    path = folder.rollup(task.key)
    with suppress(OSError, ValueError, TypeError):
        kept = json.loads(path.read_text())
        return [RollupRow(**{name: json_number(value) for name, value in row.items()}) for row in kept]
    rows = list(_rows(task, ((prompt, folder.read_verdict(key)) for prompt, key in task.verdicts)))
    write_atomically(path, json.dumps([json_value(asdict(row)) for row in rows]).encode())
    return rows


@dataclass(slots=True)
class _Sum:
    """What has been seen of one stage so far."""

    judged: int = 0
    first: int = 0
    failed: int = 0
    unknown: int = 0
    largest: float | None = None
    prompt: int | None = None

    def add(self, prompt: int, record: Mapping[str, Any]) -> None:
        self.judged += 1
        self.failed += record["verdict"] == Verdict.FAIL
        self.unknown += record["verdict"] == Verdict.UNKNOWN
        error, floor = json_number(record["error"]), json_number(record["floor"])
        if error is None or not floor or math.isnan(error):
            return
        if self.largest is None or error / floor > self.largest:
            self.largest, self.prompt = error / floor, prompt


def _rows(task: RollupTask, verdicts: Iterable[tuple[int, Iterable[Mapping[str, Any]]]]) -> Iterator[RollupRow]:
    sums: dict[tuple[int | None, str], _Sum] = {}
    for prompt, records in verdicts:
        for record in records:
            if record["record"] == "comparison":
                sums.setdefault((record["layer"], record["stage"]), _Sum()).add(prompt, record)
            elif record["record"] == "summary" and record["first_divergence"] is not None:
                first = record["first_divergence"]
                sums[first["layer"], first["stage"]].first += 1
    for (layer, stage), found in sums.items():
        yield RollupRow(
            task.model, task.pair, task.engine, layer, stage, found.judged, found.first, found.failed,
            found.unknown, found.failed / found.judged, found.largest, found.prompt,
        )  # fmt: skip


def worst_first(rows: Sequence[RollupRow]) -> list[RollupRow]:
    """Rows with those first that are most often the first wrong stage, then those that fail most often, then those with
    the largest error over their floor."""
    return sorted(rows, key=lambda row: (-row.first / row.judged, -row.failed_share, -(row.largest_over_floor or 0.0)))
