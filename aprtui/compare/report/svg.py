"""A comparison as a picture: the grid of layers × stages, how far each stage is from its bound, in colour and in words.

It is drawn from the records of a comparison, so that the JSON alone is enough to draw it again.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Signal, error_step
from aprtui.compare.wording import figures_text
from aprtui.trace.graph.stage import Node

Record = Mapping[str, Any]

CELL, GAP, LEFT, HEAD = 22, 2, 74, 118
LINE, TITLE_CHARACTER = 18, 7
"""Height of a line of text, and the width of a character in the bold title."""
_STEPS = ("#dce9f5", "#b9d4ea", "#8fbbdc", "#fbd9a5", "#f4a259", "#d1495b")
"""For each `error_step`: three below the bound, three above it; light enough for dark marks on them."""
_MISSING, _UNKNOWN, _NOT_FINITE = "#e3e3e3", "#c9c4d6", "#3d2b56"
LEGEND = (
    (_STEPS[0], "far below the bound"), (_STEPS[2], "up to the bound"), (_STEPS[3], "up to 3 × the bound"),
    (_STEPS[4], "up to 30 ×"), (_STEPS[5], "more than 30 ×"), (_NOT_FINITE, "NaN or Inf on one side"),
    (_UNKNOWN, "not judged"), (_MISSING, "not compared"),
)  # fmt: skip
MARKS = "× beyond its bound · outlined: adds error itself · N NaN or Inf · ? not judged"


@dataclass(frozen=True, slots=True)
class SvgCell:
    """One stage of one layer: its colour, and what a tooltip says of it. `mark` is a sign that needs no colour."""

    colour: str
    text: str
    mark: str = ""
    outlined: bool = False


def render_svg(records: Iterable[Mapping[str, Any]]) -> str:
    """An SVG document from all the records of a comparison, its summary among them."""
    listed = list(records)
    summary = next(record for record in listed if record["record"] == "summary")
    drawing = draw_grid(listed, title=verdict_text(summary))
    alone = drawing.replace("<style>", "<style>svg{color:#222;background:#fff}", 1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{alone}'


def verdict_text(summary: Mapping[str, Any]) -> str:
    """The verdict of a `summary` record in one sentence."""
    return f"{summary['verdict']}: {summary['headline']}"


def _figures(record: Record) -> str:
    return figures_text(record["metric"], record["error"], record["floor"], record["bound"])


def draw_grid(records: Sequence[Record], *, title: str = "") -> str:
    """The SVG element; `title` is drawn above the grid where given. Stages that the model has once stand below it."""
    stages, layers = _axes(records)
    width = max(LEFT + len(stages) * (CELL + GAP) + 150, 560)
    titles = textwrap.wrap(title, width // TITLE_CHARACTER)
    found = next((record["first_divergence"] for record in records if record["record"] == "summary"), None)
    first = None if found is None else Node(found["layer"], found["stage"])
    cells = {
        (record["layer"], record["stage"]): _cell(record, first) for record in records if record["record"] in _DRAWN
    }
    top = HEAD + (LINE * len(titles) + 12 if titles else 0)
    height = top + len(layers) * (CELL + GAP) + 52 + 18 * ((len(LEGEND) + 2) // 3)
    parts = list(_labels(stages, layers, top, titles))
    for row, layer in enumerate(layers):
        for column, stage in enumerate(stages):
            cell = cells.get((layer, stage))
            if cell is not None:
                parts.append(_rectangle(LEFT + column * (CELL + GAP), top + row * (CELL + GAP), cell))
    parts += _legend(top + len(layers) * (CELL + GAP) + 24)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="error of each stage against its bound">'
        f"<style>text{{font:12px system-ui,sans-serif;fill:currentColor}}</style>{''.join(parts)}</svg>"
    )


_DRAWN = ("comparison", "skip")


def _axes(records: Sequence[Record]) -> tuple[list[str], list[int | None]]:
    """Stages in the order of their first appearance, which is that of execution; layers, the model's own row last."""
    drawn = [record for record in records if record["record"] in _DRAWN]
    stages = list(dict.fromkeys(record["stage"] for record in drawn))
    layers = {record["layer"] for record in drawn}
    numbered: list[int | None] = sorted(layer for layer in layers if layer is not None)
    return stages, numbered + ([None] if None in layers else [])


def _cell(record: Record, first: Node | None) -> SvgCell:
    """A cell; that of the `first` divergence is outlined, and without a replay no other: they can be inherited."""
    where = Node(record["layer"], record["stage"])
    if record["record"] == "skip":
        return SvgCell(_MISSING, f"{where}: not compared: {record['reason']}", "·")
    text = f"{where}: {record['verdict']}, {_figures(record)}: {record['reason']}"
    if record["metric"] == "non_finite":
        return SvgCell(_NOT_FINITE, text, "N", record["state"] == "injected")
    if record["bound"] is None or record["error"] is None:
        return SvgCell(_UNKNOWN, text, "?")
    mark = "×" if record["verdict"] == "FAIL" else ""
    injected = record["state"] == "injected" and (where == first or record["signal"] == Signal.INJECTED)
    outlined = bool(mark) and injected
    step = error_step(Metric(record["metric"]), float(record["error"]), float(record["bound"]))
    return SvgCell(_STEPS[step], text, mark, outlined)


def _labels(stages: Sequence[str], layers: Sequence[int | None], top: int, titles: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(titles, 1):
        yield f'<text x="4" y="{LINE * number}" style="font-weight:600">{escape(line)}</text>'
    for column, stage in enumerate(stages):
        x = LEFT + column * (CELL + GAP) + CELL / 2 + 4
        yield f'<text x="{x}" y="{top - 6}" transform="rotate(-55 {x} {top - 6})">{escape(stage)}</text>'
    for row, layer in enumerate(layers):
        y = top + row * (CELL + GAP) + CELL - 6
        yield f'<text x="{LEFT - 8}" y="{y}" text-anchor="end">{"model" if layer is None else f"layer {layer}"}</text>'


def _rectangle(x: float, y: float, cell: SvgCell) -> str:
    light = "#fff" if cell.colour in (_NOT_FINITE, _STEPS[5]) else "#222"
    mark = f'<text x="{x + CELL / 2}" y="{y + CELL - 6}" text-anchor="middle" style="fill:{light}">{cell.mark}</text>'
    outline = ' stroke="currentColor" stroke-width="2.5"' if cell.outlined else ""
    return (
        f'<g><title>{escape(cell.text)}</title><rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="3" '
        f'fill="{cell.colour}"{outline}/>{mark if cell.mark else ""}</g>'
    )


def _legend(top: float) -> Iterator[str]:
    for index, (colour, text) in enumerate(LEGEND):
        x, y = 4 + (index % 3) * 185, top + (index // 3) * 18
        yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" rx="2" fill="{colour}"/>'
        yield f'<text x="{x + 18}" y="{y}">{escape(text)}</text>'
    yield f'<text x="4" y="{top + ((len(LEGEND) + 2) // 3) * 18}">{MARKS}</text>'
