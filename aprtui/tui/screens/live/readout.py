"""What the live screen says in words of a pass: what a node holds, which pass it is, how tokens are chosen."""

from __future__ import annotations

import math

import numpy as np

from aprtui.engine.process.slots import TokenRecord
from aprtui.engine.sampling import Sampling
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.tui.draw.figures import Statistic
from aprtui.tui.draw.numbers import duration, number
from aprtui.tui.draw.text import SEPARATOR, joined


def describe(
    graph: StageGraph, node: Node | None, record: TokenRecord | None, before: TokenRecord | None, width: int
) -> str:
    """One node of a pass in words: its name and all that is known of it; `before` is the pass of the token before."""
    if node is None:
        return ""
    if node not in graph.order:
        return joined([f"layer {node.layer} has no {node.stage}", graph.kind_words(node.layer)], width)
    if record is None:
        return joined([str(node), "no token yet"], width)
    place = graph.order[node]
    row = record.stats[place]
    if not row["count"]:
        return joined([str(node), "not tapped"], width)
    figures = [f"{name} {_finite(float(row[name]))}" for name in ("rms", "min", "max", "mean", "absmax")]
    bad = f"{row['nan']} NaN, {row['inf']} Inf" if row["nan"] or row["inf"] else "all finite"
    kind = graph.kind_words(node.layer)
    fields = [str(node), figures[0], bad, *_change(row, before, place), _time(record, place)]
    return joined([*fields, *([kind] if kind else []), *figures[1:], f"{row['count']} values"], width)


def _change(row: np.void, before: TokenRecord | None, place: int) -> list[str]:
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


def _finite(value: float) -> str:
    return "none finite" if math.isnan(value) else number(value)


def pass_title(statistic: Statistic, record: TokenRecord | None) -> str:
    if record is None:
        return statistic.words
    if record.index == 0:
        new = " new" if record.evaluated < record.position else ""
        return f"{statistic.words}: the prompt, {record.evaluated}{new} tokens"
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
