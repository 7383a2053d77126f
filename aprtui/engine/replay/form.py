"""The model in the form that a capture's engine computed in, where its file has the other one."""

from __future__ import annotations

from aprtui.model.latent_forms import in_other_form, other_form
from aprtui.model.model import Model
from aprtui.progress import Progress, no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage_graph import graph_for


def in_form_of(capture: Capture, model: Model, progress: Progress | None = None) -> Model:
    """`model`, or, where `capture` is of latent attention in the form that the file does not have, `model` in that."""
    return in_other_form(model, progress or no_progress) if is_of_other_form(capture, model) else model


def is_of_other_form(capture: Capture, model: Model) -> bool:
    """Whether the manifest of `capture` says so, or where there is none, the stages that it has."""
    if model.config.graph.latent is None or model.rebuilt is not None:
        return False
    other = other_form(model.config.graph)
    if capture.manifest is not None:
        return capture.manifest.graph == other
    found, own = {node.stage for node in capture.files}, set(model.graph.names)
    theirs = set(graph_for(other).names)
    return bool(found & (theirs - own)) and not found & (own - theirs)
