"""A comparison as a picture of its own: the grid of stages with the verdict above it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aprtui.compare.report.grid import draw_grid, shown


def verdict_text(summary: Mapping[str, Any]) -> str:
    """The verdict of a `summary` record in one line."""
    found = summary["first_divergence"]
    if found is None:
        reasons = "; ".join(summary["reasons"])
        return f"{summary['verdict']}{': ' if reasons else ''}{reasons}"
    place = found["stage"] if found["layer"] is None else f"layer {found['layer']} {found['stage']}"
    numbers = f"{found['metric']} {shown(found['error'])}, floor {shown(found['floor'])}, bound {shown(found['bound'])}"
    return f"{summary['verdict']}: first divergence at {place}: {numbers}"


def render_svg(records: Iterable[Mapping[str, Any]]) -> str:
    """An SVG document from all the records of a comparison, its summary among them."""
    kept = list(records)
    summary = next(record for record in kept if record["record"] == "summary")
    drawing = draw_grid(kept, title=verdict_text(summary))
    alone = drawing.replace("<style>", "<style>svg{color:#222;background:#fff}", 1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{alone}'
