"""Captures of several paths of one engine: each held against the first, at the tokens that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.comparison.options import warn_about
from aprtui.cli.json_lines import write_record
from aprtui.cli.progress import ProgressLine
from aprtui.errors import VERDICT_CODES, UsageError, printable

if TYPE_CHECKING:
    from aprtui.compare.comparison import Comparison
    from aprtui.progress import Progress
    from aprtui.trace.capture import Capture
    from aprtui.trace.graph.stage_graph import StageGraph


def captures_in(targets: Sequence[Path]) -> tuple[Path, ...]:
    """The captures that are named, or that the one folder named holds; none where a model is named.

    Raises `UsageError` for models among captures, and for a capture alone.
    """
    from aprtui.importing.formats.registry import format_of
    from aprtui.recordings.reading import is_recording
    from aprtui.trace.archive import is_archive
    from aprtui.trace.capture import is_capture

    def is_one(path: Path) -> bool:
        if path.is_dir():
            return is_capture(path) or is_recording(path) or format_of(path) is not None
        return path.exists() and is_archive(path)

    if len(targets) == 1 and targets[0].is_dir() and not is_one(targets[0]):
        inside = tuple(sorted(child for child in targets[0].iterdir() if is_one(child)))
        if len(inside) < 2:
            raise UsageError(f"{targets[0]}: holds {len(inside)} captures: expected two or more, or name them")
        return inside
    found = tuple(path for path in targets if is_one(path))
    if found and (len(found) < 2 or len(found) < len(targets)):
        rest = next((path for path in targets if path not in found), None)
        what = "is one capture" if rest is None else f"and {rest}"
        raise UsageError(f"{found[0]} {what}: name a model, or two captures or more")
    if not found and len(targets) > 1:
        raise UsageError(f"{targets[1]}: is no capture: name one model, or two captures or more")
    return found


@dataclass(frozen=True, slots=True)
class _Pair:
    name: str
    comparison: Comparison


def compare_paths(paths: Sequence[Path], model: Path | None, tolerances: Sequence[str], as_json: bool) -> int:
    """Hold each of `paths` against the first one and print how they came out; the exit code of the verdict."""
    from aprtui.cli.comparison.recordings import readable
    from aprtui.cli.options import requested_model
    from aprtui.compare.verdict import Verdict
    from aprtui.trace.capture import Capture

    if model is not None and tolerances:
        raise UsageError("--model and --tolerance: choose one of them to judge by")

    def graph() -> StageGraph | None:
        return None if model is None else requested_model(model).graph

    with ExitStack() as stack:
        progress = stack.enter_context(ProgressLine())
        opened = []
        for path in paths:
            capture = Capture.open(stack.enter_context(readable(path, graph, progress)))
            warn_about(capture)
            opened.append(capture)
        pairs = [
            _Pair(path.name, _compared(opened[0], capture, model, tolerances, progress))
            for path, capture in zip(paths[1:], opened[1:], strict=True)
        ]
        graphs = {pair.name: capture.graph for pair, capture in zip(pairs, opened[1:], strict=True)}
    verdicts = {pair.comparison.verdict for pair in pairs}
    verdict = next((kind for kind in (Verdict.FAIL, Verdict.UNKNOWN) if kind in verdicts), Verdict.PASS)
    first = _first(pairs, graphs)
    if as_json:
        for pair in pairs:
            write_record({"record": "path", **_record(pair)})
        write_record(
            {"record": "summary", "verdict": verdict, "reference": str(paths[0]), "paths": len(paths),
             "first": None if first is None else first.name}
        )  # fmt: skip
    else:
        click.echo("\n".join(_lines(paths[0], pairs, first, verdict)))
    return VERDICT_CODES[verdict]


def _compared(a: Capture, b: Capture, model: Path | None, tolerances: Sequence[str], progress: Progress) -> Comparison:
    from aprtui.cli.comparison.judging import Judging
    from aprtui.compare.captures import DiffOptions, compare_captures
    from aprtui.compare.verdict import parse_tolerance

    # The last positions of sequences of two lengths are two positions.
    apart = a.token_count != b.token_count
    last = tuple(stage.name for stage in a.graph.stages if stage.of_last_position) if apart else ()
    options = DiffOptions(tolerances=tuple(map(parse_tolerance, tolerances)), allow_missing=last, shared_tokens=True)
    criteria, tokens = Judging(None, model, None, None, False, "").criteria(a, b, options, None, progress)
    if tokens is not None:
        from aprtui.engine.replay.token_ids import TABLE_SOURCE

        options = replace(options, tokens=tokens, token_source=TABLE_SOURCE)
    return compare_captures(a, b, options, progress, criteria)


def _first(pairs: Sequence[_Pair], graphs: dict[str, StageGraph]) -> _Pair | None:
    """The pair that parts first in execution order, then by token."""

    def place(pair: _Pair) -> tuple[int, int]:
        divergence = pair.comparison.first_divergence
        assert divergence is not None
        return graphs[pair.name].order[divergence.verdict.node], divergence.place.get("token", 0)

    return min((pair for pair in pairs if pair.comparison.first_divergence), key=place, default=None)


def _record(pair: _Pair) -> dict[str, object]:
    from aprtui.compare.report.headline import headline

    found, divergence = pair.comparison, pair.comparison.first_divergence
    where = None
    if divergence is not None:
        node = divergence.verdict.node
        where = {"layer": node.layer, "stage": node.stage, **divergence.place, "error": divergence.verdict.error,
                 "metric": divergence.verdict.metric, "bound": divergence.verdict.bound}  # fmt: skip
    return {
        "path": pair.name, "verdict": found.verdict, "parting": where, "headline": headline(found),
        "stages": len(found.stages), "tokens": found.alignment.aligned,
    }  # fmt: skip


def _lines(reference: Path, pairs: Sequence[_Pair], first: _Pair | None, verdict: str) -> Iterator[str]:
    from aprtui.cli.comparison.render import wrapped
    from aprtui.compare.report.headline import headline
    from aprtui.compare.wording import counted

    yield f"reference  {printable(str(reference))}"
    width = max(len(pair.name) for pair in pairs)
    for pair in pairs:
        found = pair.comparison
        tokens = "tokens of an unknown number" if found.alignment.aligned is None else counted(
            found.alignment.aligned, "token"
        )  # fmt: skip
        yield f"{printable(pair.name):<{width}}  {found.verdict:<8}{counted(len(found.stages), 'stage')}, {tokens}"
    yield ""
    for pair in pairs:
        yield from wrapped(pair.name, headline(pair.comparison))
    if first is not None and first.comparison.first_divergence is not None:
        said = f"{first.name} parts first, at {first.comparison.first_divergence.verdict.node}"
    else:
        said = "all paths agree" if verdict == "PASS" else "no path can be shown to part"
    yield from wrapped(str(verdict), said)
