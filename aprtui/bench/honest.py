"""False alarms: captures of honest engines, judged alone and in pairs. None may be called a divergence.

A folder holds `<model>/model.gguf` and captures of it in `<model>/<name>/`, by whatever engine; our own runs of the
model on the same tokens join them. Captures of the same tokens are judged in pairs by the measured floor, and each
alone by a replay. `faults/<name>/` hold captures of engines that ran an edited model: `expected.json` names the
original (`model`, relative to the folder) and the stages that are right answers (`accepted`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.backends import open_engine
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.floors.grounds import grounds_by_model
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.identify import TABLE_SOURCE, known_tokens
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.errors import UnreadableError
from aprtui.model.model import Model, load_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node

Progress = Callable[[str, int, int], None]

FAULTS = "faults"


@dataclass(frozen=True, slots=True)
class Judged:
    """One judgement: of what, by which signal, the verdict and what was said with it. `right` is None where only the
    verdict counts; else whether the named stage is one of the right answers."""

    what: str
    signal: str
    verdict: Verdict
    said: str
    right: bool | None = None


def judge_honest(folder: Path, progress: Progress | None = None) -> Iterator[Judged]:
    """Every honest capture below `folder` by replay, and every pair of the same model and tokens by diff."""
    models = sorted(path.parent for path in folder.glob("*/model.gguf"))
    for done, home in enumerate(models):
        if progress:
            progress(f"judging honest captures of {home.name},", done, len(models))
        with tempfile.TemporaryDirectory(prefix="aprtui-honest-") as own:
            yield from _of_model(load_model(home / "model.gguf"), _captures(home), Path(own), home.name)


def _captures(home: Path) -> list[Capture]:
    found = []
    for path in sorted(path for path in home.iterdir() if path.is_dir()):
        try:
            found.append(Capture.open(path))
        except UnreadableError:
            continue
    return found


def _of_model(model: Model, foreign: Sequence[Capture], own: Path, name: str) -> Iterator[Judged]:
    groups: dict[tuple[int, ...], list[Capture]] = {}
    for capture in foreign:
        tokens = known_tokens(capture, capture, model, None)
        if tokens is not None:
            groups.setdefault(tokens, []).append(capture)
    with Evaluators(model) as evaluators:
        for index, (tokens, captures) in enumerate(groups.items()):
            everyone = [*captures, *own_captures(model, tokens, own / str(index))]
            for capture in everyone:
                comparison = replay_capture(capture, model, ReplayOptions(), evaluators)
                yield _judged(f"{name}, {len(tokens)} tokens: {capture.path.name}", "replay", comparison)
            for a, b in combinations(everyone, 2):
                grounds = grounds_by_model(a, b, model, tokens, evaluators)
                options = DiffOptions(tokens=tokens, token_source=TABLE_SOURCE)
                what = f"{name}, {len(tokens)} tokens: {a.path.name} and {b.path.name}"
                yield _judged(what, "diff", compare_captures(a, b, options, None, grounds))


def own_captures(model: Model, tokens: Sequence[int], folder: Path) -> Iterator[Capture]:
    """Our own runs: both modes, both K/V types, the prompt at once and, for half of it, token by token."""
    for mode in Mode:
        for kv in KvType:
            for prefill in (None, max(1, len(tokens) // 2)):
                path = folder / f"aprtui-{mode}-{kv}{'' if prefill is None else '-decode'}"
                engine = open_engine(model, mode=mode, kv=kv, context=len(tokens))
                try:
                    nodes = frozenset(model.graph.nodes)
                    write_capture(engine, model, CaptureRequest(tokens, None, nodes, prefill=prefill), path)
                finally:
                    engine.close()
                yield Capture.open(path)


def judge_outside_faults(folder: Path, progress: Progress | None = None) -> Iterator[Judged]:
    """Every capture of an edited model below `folder`, replayed with the original."""
    expected = sorted((folder / FAULTS).glob("*/expected.json"))
    for done, path in enumerate(expected):
        if progress:
            progress("replaying captures of edited models,", done, len(expected))
        stated = json.loads(path.read_text())
        accepted = {Node(answer["layer"], answer["stage"]) for answer in stated["accepted"]}
        model = load_model(folder / stated["model"])
        with Evaluators(model) as evaluators:
            comparison = replay_capture(Capture.open(path.parent), model, ReplayOptions(), evaluators)
        divergence = comparison.first_divergence
        right = divergence is not None and divergence.verdict.node in accepted
        yield _judged(path.parent.name, "replay", comparison, right)


def _judged(what: str, signal: str, comparison: Comparison, right: bool | None = None) -> Judged:
    divergence = comparison.first_divergence
    said = "; ".join(comparison.reasons)
    if divergence is not None:
        verdict = divergence.verdict
        said = f"{verdict.node}: {verdict.metric} {verdict.error:.3g}, bound {verdict.bound:.3g}"
    return Judged(what, signal, comparison.verdict, said, right)
