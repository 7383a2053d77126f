"""Checks on what a capture holds: the layers and stages that were asked for, and no others."""

from __future__ import annotations

from aprtui.compare.wording import counted
from aprtui.contracts.checks.arguments import LAYERS, OnCapture, wanted_nodes
from aprtui.contracts.checks.judgement import Judgement, counted_wrong, unknown
from aprtui.trace.capture import Capture, claimed_files
from aprtui.trace.graph import Node


def layer_subset(asked: OnCapture) -> Judgement:
    """The files are those of the stages and layers asked for, and no other layer has any.

    Asked for is what the manifest lists. A capture of all layers is no subset; where the parameters name one, any other
    proves nothing either. Without a manifest only the parameters say what was asked for, and what they do not fit may
    have been asked for all the same.
    """
    capture = asked.capture
    claimed = frozenset(wanted_nodes(capture.graph, asked.parameters)[0]) if LAYERS in asked.parameters else None
    present = _on_disk(capture)
    expected = claimed if capture.manifest is None else capture.promised
    if expected is None:
        return unknown("nothing says which layers were asked for: no manifest, and the contract names none")
    layers = {node.layer for node in expected if node.layer is not None}
    if claimed is not None and (expected if capture.manifest is not None else present) != claimed:
        return unknown("other stages or layers were captured than those that the contract names")
    if len(layers) == capture.graph.layers and capture.manifest is not None:
        return unknown("every layer was asked for: capture some of them with --save-tensor-layers")
    wrong = tuple(sorted(present ^ expected, key=str))
    reason = f"{counted(len(expected), 'file')}, of {_layers_text(layers)} alone"
    if wrong:
        reason = f"{wrong[0]} {'was not asked for' if wrong[0] in present else 'is missing'}"
    return counted_wrong("files too many or too few", wrong, tuple(sorted(expected, key=str)), reason)


def _on_disk(capture: Capture) -> set[Node]:
    """What lies in the directory, stale files too."""
    return {node for node, _ in claimed_files(capture.path)}


def _layers_text(layers: set[int]) -> str:
    return f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(str(layer) for layer in sorted(layers))}"


def multi_stage(asked: OnCapture) -> Judgement:
    """Several stages asked for in one run are all there, in every captured layer that has them."""
    stages = {node.stage for node in asked.nodes}
    if len(stages) < 2:
        return unknown("one stage was captured: capture several in one run")
    capture = asked.capture
    layers = {node.layer for node in capture.files}
    expected = (
        tuple(node for node in capture.graph.nodes if node in capture.promised and node.stage in stages)
        if capture.manifest is not None
        else tuple(node for node in capture.graph.nodes if node.stage in stages and node.layer in layers)
    )
    missing = tuple(node for node in expected if node not in capture.files)
    files = counted(len(expected), "file")
    reason = f"{missing[0]} is missing" if missing else f"{len(stages)} stages, {files}, none missing"
    return counted_wrong("missing files", missing, expected, reason)
