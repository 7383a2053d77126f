"""The verdict on a recording as text for 80 columns, and as the records of `--json`."""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import counted, number_text
from aprtui.recordings.format import OpSet, RecordingHeader
from aprtui.recordings.reading import Recording
from aprtui.recordings.replay import OpReplay, OpResult, by_op

SCHEMA = "aprtui-recording-v1"
_WIDTH = 80
_SHOWN = 6

_FOLDER = "HF_FOLDER"
"""What stands in a command for the folder of Hugging Face that the model was made of."""

BLIND = (
    "an op graph shows whether the engine computed what it meant to; a graph that is wrong but faithfully executed "
    "(an epsilon, a RoPE base, gate and up exchanged) takes a reference"
)
"""What no replay of a recording can see."""


def engine_text(header: RecordingHeader) -> str:
    """Who executed the ops, and as it was asked to."""
    settings = ", ".join(f"{name} {value}" for name, value in header.engine.settings.items())
    return f"{header.engine.name} ({header.engine.version}){f', {settings}' if settings else ''}"


def replay_lines(recording: Recording, replay: OpReplay) -> Iterator[str]:
    """The recording, a row for each kind of op, and the verdict."""
    header = recording.header
    yield f"recording  {recording.path}"
    yield from wrapped("engine", engine_text(header))
    if header.model is not None:
        yield from wrapped("model", header.model.path)
    yield f"tokens     {len(header.tokens)} in {counted(len(recording.graphs), 'graph')}"
    yield ""
    yield f"{'op':<18}{'verdict':<8}{'ops':>6}{'failed':>7}{'worst l2':>10}  where"
    for name, results in by_op(replay.results):
        yield _row(name, results)
    yield ""
    for statement in replay.statements:
        yield from wrapped("note", statement)
    roundings = Counter(result.rounding for result in replay.results if result.rounding)
    if roundings:
        yield from wrapped("explained", "; ".join(f"{text} ({count})" for text, count in roundings.most_common()))
    yield from wrapped("verdict", f"{replay.verdict}: {replay.reason}")
    for reason, count in replay.unknown.most_common(_SHOWN):
        yield from wrapped("unknown", f"{counted(count, 'op')}: {reason}")
    if replay.first is not None:
        yield from wrapped("first", first_text(replay.first))
    yield from wrapped("unseen", BLIND)


def first_text(result: OpResult) -> str:
    """The first op that is wrong, in words."""
    place = f", at {result.place}" if result.place else ""
    device = f" on {result.device}" if result.device else ""
    rounding = f" (nearest: {result.rounding})" if result.rounding else ""
    return (
        f"op {result.index} of graph {result.graph}, {result.op}{device}, {result.name}: {result.metric} "
        f"{number_text(result.error)}, bound {number_text(result.bound)}{place}: {result.reason}{rounding}"
    )


def _row(name: str, results: Sequence[OpResult]) -> str:
    found = [result.verdict for result in results]
    verdict = next((v for v in (Verdict.FAIL, Verdict.UNKNOWN) if v in found), Verdict.PASS)
    worst = max(
        results, key=lambda result: (result.verdict is Verdict.FAIL, -1.0 if result.error is None else result.error)
    )
    where = str(worst.name)
    return (
        f"{name:<18}{verdict:<8}{len(results):>6}{found.count(Verdict.FAIL):>7}{number_text(worst.error):>10}  "
        f"{where if len(where) <= 29 else where[:28] + '…'}"
    )


def next_steps(recording: Recording, replay: OpReplay, is_known: bool) -> Iterator[str]:
    """Commands that see what this one cannot. `is_known`: the model's file is at hand, of an architecture of ours."""
    if replay.verdict is Verdict.FAIL:
        return
    header = recording.header
    engine = "llamacpp" if header.ops is OpSet.ATEN else "torch"
    # transformers itself has more architectures than our loader dequantises for it.
    model = header.model.path if header.model and (is_known or engine == "llamacpp") else _FOLDER
    tokens = ",".join(map(str, header.tokens))
    yield "next  hold it against what another engine or build executes:"
    yield shlex.join(["aprtui", "record", engine, model, "--tokens", tokens, *_passes(recording), "--out", "reference"])
    yield shlex.join(["aprtui", "diff", "reference", str(recording.path)])


def _passes(recording: Recording) -> list[str]:
    """The option that another recording is made of the same passes with."""
    return ["--decode-from", str(recording.graphs[0].count)] if len(recording.graphs) > 1 else []


def replay_records(recording: Recording, replay: OpReplay) -> Iterator[Mapping[str, Any]]:
    """A header, a record for each op, and the summary."""
    header = recording.header
    yield {
        "record": "header", "schema": SCHEMA, "path": str(recording.path), "engine": header.engine.name,
        "version": header.engine.version, "settings": header.engine.settings, "ops": str(header.ops),
        "model": header.model.path if header.model else None, "tokens": header.tokens,
        "statements": replay.statements,
    }  # fmt: skip
    for result in replay.results:
        yield {"record": "op", **result_record(result)}
    first = replay.first
    yield {
        "record": "summary", "verdict": str(replay.verdict), "reason": replay.reason, "ops": len(replay.results),
        "failed": sum(result.verdict is Verdict.FAIL for result in replay.results),
        "unknown": dict(replay.unknown), "first_divergence": result_record(first) if first else None, "unseen": BLIND,
    }  # fmt: skip


def result_record(result: OpResult) -> Mapping[str, Any]:
    """One op as a record."""
    return {
        "graph": result.graph, "index": result.index, "op": result.op, "name": result.name.text,
        "layer": result.name.layer, "stage": result.name.stage, "verdict": str(result.verdict),
        "metric": None if result.metric is None else str(result.metric), "error": result.error, "bound": result.bound,
        "reason": result.reason, "rounding": result.rounding, "place": result.place, "device": result.device,
    }  # fmt: skip


def wrapped(label: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=f"{label:<11}", subsequent_indent=" " * 11, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
