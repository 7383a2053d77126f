"""Lines of text for the live screen, made from records: what a node holds, what the engine is, how fast it goes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.process.messages import EngineInfo
from aprtui.engine.process.slots import TokenRecord
from aprtui.engine.sampling import Sampling
from aprtui.trace.graph import Node, StageGraph
from aprtui.tui.draw.figures import Figures, Statistic
from aprtui.tui.draw.levels import GridLayout, Mark, first_nonfinite

SEPARATOR = "  "

COLUMNS = 80
"""The least width that screens are made for."""


def fit(fields: Sequence[str], width: int) -> str:
    """As many of `fields` as fit in `width`, the first ones first; `…` where some are left out."""
    text = SEPARATOR.join(fields)
    kept = len(fields)
    while len(text) > width and kept > 1:
        kept -= 1
        text = SEPARATOR.join([*fields[:kept], "…"])
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def describe(
    graph: StageGraph, node: Node | None, record: TokenRecord | None, before: TokenRecord | None, width: int
) -> str:
    """One node of a pass in words: its name and all that is known of it; `before` is the pass of the token before."""
    if node is None:
        return ""
    if record is None:
        return fit([str(node), "no token yet"], width)
    place = graph.order[node]
    row = record.stats[place]
    if not row["count"]:
        return fit([str(node), "not tapped"], width)
    figures = [f"{name} {_number(float(row[name]))}" for name in ("rms", "min", "max", "mean", "absmax")]
    bad = f"{row['nan']} NaN, {row['inf']} Inf" if row["nan"] or row["inf"] else "all finite"
    fields = [str(node), figures[0], bad, *_change(row, before, place), _time(record, place)]
    return fit([*fields, *figures[1:], f"{row['count']} values"], width)


def _change(row: np.void, before: TokenRecord | None, place: int) -> list[str]:
    """How the rms has changed, where there is a token before."""
    if before is None:
        return []
    old, new = float(before.stats["rms"][place]), float(row["rms"])
    if not (old > 0 and math.isfinite(old) and math.isfinite(new)):
        return ["change unknown"]
    return [f"change {100 * (new / old - 1):+.3g} %".replace("-", "−")]


def _time(record: TokenRecord, place: int) -> str:
    """How long the stage took, and with which others."""
    known = ~np.isnan(record.stage_seconds)
    if not known[: place + 1].any():
        return "not timed"
    first = int(np.flatnonzero(known[: place + 1])[-1])
    following = np.flatnonzero(known[first + 1 :])
    count = (int(following[0]) if following.size else known.size - first - 1) + 1
    took = duration(float(record.stage_seconds[first]))
    return took if count == 1 else f"{took} with {count - 1} more"


def _number(value: float) -> str:
    return "none finite" if math.isnan(value) else f"{value:.3g}".replace("-", "−")


def model_strip(layout: GridLayout, figures: Figures | None, *, before: bool, after: bool) -> str:
    """The figures of the stages that the model has once: those `before` its layers, and those `after` them."""
    last = layout.rows.max(initial=0)
    fields = [
        f"{node.stage} {'·' if figures is None else figures.text(row, 6)}"
        for node, row in zip(layout.model_nodes, layout.model_rows.tolist(), strict=True)
        if (before if row < last else after)
    ]
    return SEPARATOR.join(["    " + fields[0], *fields[1:]]) if fields else ""


def first_bad(graph: StageGraph, stats: NDArray[np.void]) -> str:
    """Which stage is the first to hold NaN or Inf; empty where none does."""
    found = first_nonfinite(stats)
    if found is None:
        return ""
    return f"first {'NaN' if found[1] is Mark.NAN else 'Inf'}: {graph.nodes[found[0]]}"


def engine_line(info: EngineInfo | None, width: int) -> str:
    """What is loaded and what it runs on; a screen too narrow for the rest says so first."""
    narrow = [f"made for {COLUMNS} columns, this screen has {width}"] if width < COLUMNS - 2 else []
    if info is None:
        return fit([*narrow, "aprtui", "no model loaded yet"], width)
    fields = [
        info.model, f"{info.graph.architecture} {info.quantization}", f"mode {info.mode}", f"K/V {info.kv}",
        f"{info.backend} ({info.code_path})",
    ]  # fmt: skip
    if info.chosen:
        fields.append(f"auto: {info.chosen}")
    if info.faults:
        fields.insert(1, "1 fault injected" if len(info.faults) == 1 else f"{len(info.faults)} faults injected")
    return fit([*narrow, *fields], width)


def speed_line(info: EngineInfo | None, record: TokenRecord | None, pace: float | None, width: int) -> str:
    """How fast the engine is by its own clock, what pace is asked of it, and how much of the context is used."""
    if info is None or record is None:
        return ""
    speed = f"{_rate(record.tokens_per_second)} tok/s" if record.tokens_per_second else "first token"
    paced = pace is not None and record.tokens_per_second > pace
    return fit(
        [
            f"{speed}, shown at {pace:g}" if paced else speed,
            f"context {record.position}/{info.context}",
            *device_fields(record),
            f"first token {duration(record.time_to_first_token)}",
            f"prefill {_rate(record.prefill_tokens_per_second)} tok/s",
        ],
        width,
    )


def device_fields(record: TokenRecord) -> list[str]:
    """How much of a GPU is in use, where the engine runs on one: of its memory, and its load where that is known."""
    if math.isnan(record.device_memory):
        return []
    load = "" if math.isnan(record.device_load) else f", {record.device_load:.0%} busy"
    return [f"GPU {record.device_memory_used / 1e9:.1f}/{record.device_memory / 1e9:.1f} GB{load}"]


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def duration(value: float) -> str:
    """A duration with three digits."""
    if value < 1e-6:
        return f"{value * 1e9:.3g} ns"
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.2f} s"


def pass_title(statistic: Statistic, record: TokenRecord | None) -> str:
    """Which statistic of which pass the grid shows."""
    if record is None:
        return statistic.words
    if record.index == 0:
        return f"{statistic.words}: the prompt, {record.evaluated} tokens"
    return f"{statistic.words}: pass at position {record.position - 1}"


def sampling_title(sampling: Sampling) -> str:
    """How tokens are chosen: the settings that are on."""
    if sampling.temperature == 0:
        return "greedy"
    fields = [f"temperature {sampling.temperature:g}"]
    fields += [f"top-k {sampling.top_k}"] if sampling.top_k else []
    fields += [f"top-p {sampling.top_p:g}"] if sampling.top_p < 1 else []
    fields += [f"min-p {sampling.min_p:g}"] if sampling.min_p > 0 else []
    fields += [f"repeat penalty {sampling.repeat_penalty:g}"] if sampling.repeat_penalty != 1 else []
    return SEPARATOR.join([*fields, f"seed {sampling.seed}"])
