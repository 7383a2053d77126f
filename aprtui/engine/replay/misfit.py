"""Why a capture cannot be held against a model at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np

from aprtui.compare.survey import Lost, held_values
from aprtui.compare.verdict import PADDED
from aprtui.compare.wording import ranges
from aprtui.errors import UnreadableError
from aprtui.model.model import Model
from aprtui.trace.aprt import trailing_bytes
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import ENTRY, Node

_FEWEST_PADS = 2
"""Ends of a text that are padding: one may be the first or last token of a prompt."""


def misfit(capture: Capture, model: Model, tokens: Sequence[int] | None) -> str | None:
    """Why `capture` cannot be held against `model` at all, or None."""
    graph = model.config.graph
    if capture.manifest is not None and capture.manifest.graph != graph:
        form = graph.latent
        if form is not None and capture.manifest.graph.latent == replace(form, absorbed=not form.absorbed):
            theirs, ours = ("expanded", "absorbed") if form.absorbed else ("absorbed", "expanded")
            return (
                f"the capture is of latent attention in the {theirs} form, MODEL's file has the {ours} one: give a "
                "file of the other form, or capture by aprtui oracle hf MODEL"
            )
        return f"the capture is of {capture.manifest.model.name}, whose dimensions are not those of MODEL"
    if layers := _counted_otherwise(capture, graph.layers):
        return layers
    if tokens is None and Node(0, ENTRY) in capture.files:
        return "token ids are not recorded, and the embedding is none of MODEL's: give its own --model, or --tokens"
    if tokens is None:
        return "token ids are not recorded, and no embedding stage tells them: give the ids with --tokens"
    if max(tokens, default=0) >= graph.vocabulary:
        return f"token id {max(tokens)} is not in MODEL's vocabulary of {graph.vocabulary}: another model"
    return _written_otherwise(capture, model, tokens)


def padding(model: Model, tokens: Sequence[int]) -> str | None:
    """What is to be said of a row of a padded batch whose ids nobody states: what its mask hides, and where its tokens
    stand, is the engine's to choose."""
    if not tokens:
        return None
    for first, ids in ((True, list(tokens)), (False, list(reversed(tokens)))):
        count = sum(1 for _ in takewhile(lambda token, end=ids[0]: token == end, ids))  # type: ignore[misc]
        if _FEWEST_PADS <= count < len(ids) and ids[0] in _stop_ids(model):
            rows = ranges(range(count) if first else range(len(ids) - count, len(ids)))
            return (
                f"rows {rows} are token {ids[0]} {PADDED}: take the rows of the sequence alone "
                "(a mapping's slice: {token: [first, end]}), or state that these are the ids: --tokens"
            )
    return None


def _stop_ids(model: Model) -> frozenset[int]:
    """The ids that end a text, with which batches are padded."""
    try:
        return model.tokenizer.vocabulary.stop_ids
    except UnreadableError:
        return frozenset()


def _counted_otherwise(capture: Capture, layers: int) -> str | None:
    """What is to be said of an engine that counts layers from 1: each would be judged by the weights of the next."""
    found = {node.layer for node in capture.files if node.layer is not None and node.stage != ENTRY}
    if 0 in found or max(found, default=0) != layers:
        return None
    return (
        f"the capture has layers {min(found)} to {layers}, and MODEL's are 0 to {layers - 1}: count layers from 0, in "
        "the names of folders and in the headers of files"
    )


def _written_otherwise(capture: Capture, model: Model, tokens: Sequence[int]) -> str | None:
    """What is to be said of a folder that no manifest describes, where the stages of a layer have other bytes, another
    order, or other rows, than a capture has."""
    if capture.manifest is not None:
        return None
    first = min((node.layer for node in capture.files if node.layer is not None), default=None)
    rows, wide = set(), set()
    for node in model.graph.nodes:
        stage = model.graph[node.stage]
        if node.layer == first and node in capture.files and not stage.is_attention_map:
            values = held_values(capture, node)
            if not isinstance(values, Lost) and values.size:
                rows.add(values.size / stage.width)
                wide.add(trailing_bytes(capture.files[node].path) == values.nbytes)
    if wide == {True}:
        return "behind its values, every file has as many bytes again: float64? Write float32"
    if len(rows) == 1 and (held := rows.pop()).is_integer() and held > len(tokens):
        return (
            f"its stages have {int(held)} rows, {len(tokens)} token ids are known: give those of all rows; or several "
            "runs were appended in one folder: begin with an empty one"
        )
    if _is_turned(capture, model, tokens):
        return "its embedding lies as [channels, tokens]: write all channels of a token, then those of the next"
    return None


def _is_turned(capture: Capture, model: Model, tokens: Sequence[int]) -> bool:
    """Whether the embedding is that of `tokens`, channel by channel."""
    node = Node(0, ENTRY)
    values = held_values(capture, node) if node in capture.files else None
    if values is None or isinstance(values, Lost) or values.size != model.graph[ENTRY].size(len(tokens)):
        return False
    (table,) = model.params(node)
    own = table.dequantize(list(tokens))
    return np.array_equal(values.reshape(own.shape[::-1]).T, own) and not np.array_equal(values.reshape(own.shape), own)
