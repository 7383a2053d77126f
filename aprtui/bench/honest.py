"""False alarms: captures of honest engines, judged alone and in pairs. None may be called a divergence.

A folder holds `<model>/model.gguf` and captures of it by any engine in `<model>/<name>/`; our own runs of the
model on the same tokens join them. Captures of the same tokens are judged in pairs by the measured floor, and each
alone by a replay. `faults/<name>/` hold captures of engines that ran an edited model: `expected.json` names the
original (`model`, relative to the folder) and the stages that are right answers (`accepted`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from aprtui.engine.evaluation.false_alarms import JudgedCapture, judge_pairs, judge_replays, judged, own_captures
from aprtui.engine.evaluation.fault_detection import REPLAY
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.replay.token_ids import known_tokens
from aprtui.errors import UnreadableError
from aprtui.model.model import Model, load_model
from aprtui.progress import Progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node

FAULTS = "faults"


def judge_honest(folder: Path, progress: Progress | None = None) -> Iterator[JudgedCapture]:
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


def _of_model(model: Model, foreign: Sequence[Capture], own: Path, name: str) -> Iterator[JudgedCapture]:
    groups: dict[tuple[int, ...], list[Capture]] = {}
    for capture in foreign:
        tokens = known_tokens(capture, capture, model, None)
        if tokens is not None:
            groups.setdefault(tokens, []).append(capture)
    with Evaluators(model) as evaluators:
        for index, (tokens, captures) in enumerate(groups.items()):
            everyone = [*captures, *own_captures(model, tokens, own / str(index))]
            where = f"{name}, {len(tokens)} tokens: "
            yield from judge_replays(model, everyone, evaluators, where)
            yield from judge_pairs(model, tokens, combinations(everyone, 2), evaluators, where)


def judge_outside_faults(folder: Path, progress: Progress | None = None) -> Iterator[JudgedCapture]:
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
        yield judged(path.parent.name, REPLAY, comparison, right)
