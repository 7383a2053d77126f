"""Why a capture cannot be held against a model at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aprtui.compare.survey import Lost, held_values
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph import ENTRY, Node


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
    return _more_rows(capture, model, len(tokens))


def _counted_otherwise(capture: Capture, layers: int) -> str | None:
    """What is to be said of an engine that counts layers from 1: each would be judged by the weights of the next."""
    found = {node.layer for node in capture.files if node.layer is not None and node.stage != ENTRY}
    if 0 in found or max(found, default=0) != layers:
        return None
    return (
        f"the capture has layers {min(found)} to {layers}, and MODEL's are 0 to {layers - 1}: count layers from 0, in "
        "the names of folders and in the headers of files"
    )


def _more_rows(capture: Capture, model: Model, total: int) -> str | None:
    """What is to be said where the stages of a layer agree that there are more rows than tokens are known."""
    if capture.manifest is not None:
        return None
    layer = min((node.layer for node in capture.files if node.layer is not None), default=None)
    of_layer = (node for node in model.graph.nodes if node.layer == layer and node in capture.files)
    rows = set()
    for node in of_layer:
        stage, values = model.graph[node.stage], held_values(capture, node)
        if not (stage.is_attention_map or isinstance(values, Lost)):
            rows.add(values.size / stage.width)
    if len(rows) != 1 or not (held := rows.pop()).is_integer() or held <= total:
        return None
    return (
        f"its stages have {int(held)} rows, {total} token ids are known: give those of all rows; or several runs were "
        "appended in one folder: begin with an empty one"
    )
