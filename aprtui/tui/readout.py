"""Lines of text for the live screen, made from records: what a node holds, what the engine is, how fast it goes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.process_messages import EngineInfo
from aprtui.engine.process_slots import TokenRecord
from aprtui.engine.sampling import Sampling
from aprtui.trace.graph import Node, StageGraph
from aprtui.tui.levels import GridLayout, cell_text

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


def describe(graph: StageGraph, node: Node | None, stats: NDArray[np.void] | None, width: int) -> str:
    """One node in words: its name and all its statistics."""
    if node is None:
        return ""
    if stats is None:
        return fit([str(node), "no token yet"], width)
    row = stats[graph.order[node]] if node in graph.order else None
    if row is None or not row["count"]:
        return fit([str(node), "not tapped"], width)
    figures = [f"{name} {_number(float(row[name]))}" for name in ("rms", "min", "max", "mean", "absmax")]
    bad = f"{row['nan']} NaN, {row['inf']} Inf" if row["nan"] or row["inf"] else "all finite"
    return fit([str(node), figures[0], bad, *figures[1:], f"{row['count']} values"], width)


def _number(value: float) -> str:
    return "none finite" if math.isnan(value) else f"{value:.3g}".replace("-", "−")


def model_strip(layout: GridLayout, stats: NDArray[np.void] | None, width: int) -> str:
    """The rms of the stages that the model has once."""
    fields = [
        f"{node.stage} {'·' if stats is None else cell_text(stats[row], 5)}"
        for node, row in zip(layout.model_nodes, layout.model_rows, strict=True)
    ]
    return fit(["model ", *fields], width)


def engine_line(info: EngineInfo | None, width: int) -> str:
    """What is loaded and what it runs on; a screen too narrow for the rest says so first."""
    narrow = [f"made for {COLUMNS} columns, this screen has {width}"] if width < COLUMNS - 2 else []
    if info is None:
        return fit([*narrow, "aprtui", "no model loaded yet"], width)
    fields = [
        info.model, f"{info.graph.architecture} {info.quantization}", f"mode {info.mode}", f"K/V {info.kv}",
        f"{info.backend} ({info.code_path})",
    ]  # fmt: skip
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
            f"first token {seconds(record.time_to_first_token)}",
            f"prefill {_rate(record.prefill_tokens_per_second)} tok/s",
        ],
        width,
    )


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def seconds(value: float) -> str:
    """A duration with three digits."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def pass_title(record: TokenRecord | None) -> str:
    """Which pass the grid shows."""
    if record is None:
        return "rms of each stage"
    if record.index == 0:
        return f"rms of each stage: the prompt, {record.evaluated} tokens"
    return f"rms of each stage: pass at position {record.position - 1}, token {record.index + 1} chosen"


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
