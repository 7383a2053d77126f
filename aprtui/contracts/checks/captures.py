"""Checks of one capture: its bytes, the layers and stages in it, its text, and whether its stages replay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aprtui.compare.align.coverage import Selection
from aprtui.compare.comparison import Comparison
from aprtui.compare.report.apr_diff import apr_stage_diff
from aprtui.compare.survey import tensor_stats
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.compare.wording import counted
from aprtui.contracts.checks.arguments import LAYERS, CaptureArguments, layers_text, named_stages, wanted_nodes
from aprtui.contracts.checks.judgement import Judgement, counted_wrong, judged_by_node, not_testable, passed_if, unknown
from aprtui.engine.quality.text import extracted_python
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.form import in_form_of
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.errors import UnreadableError
from aprtui.trace.aprt import read_aprt
from aprtui.trace.capture import Capture, claimed_files
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import ENTRY, Node

_ELEMENTWISE = (Op.ADD, Op.BIAS, Op.SILU, Op.GELU, Op.SWIGLU_OAI, Op.SOFTCAP, Op.MULTIPLY)
"""Ops whose element [token, channel] depends on that element of the inputs alone: a NaN in an input must stay."""

_IDENTITY = 1e-9


def byte_format(arguments: CaptureArguments) -> Judgement:
    """Each file has the magic, layer and count of its header right, and as many bytes as the header declares."""
    problems = {node: _format_problem(arguments.capture, node) for node in arguments.nodes}
    return judged_by_node("wrong files", problems, f"{counted(len(problems), 'file')}, all as declared")


def _format_problem(capture: Capture, node: Node) -> str:
    try:
        file = read_aprt(capture.files[node].path)
    except UnreadableError as error:
        return str(error)
    own = capture.files[node].node
    if file.layer != own.layer and not (own == Node(0, ENTRY) and file.layer is None):
        return f"its header says layer {'of the whole model' if file.layer is None else file.layer}"
    return f"{file.trailing} bytes after the declared values" if file.trailing else ""


def header_arithmetic(arguments: CaptureArguments) -> Judgement:
    """The count in each header is the product of the dimensions that the stage must have."""
    problems = {}
    for node in arguments.nodes:
        shape = arguments.capture.files[node].shape
        if shape is None:
            continue
        count, expected = read_aprt(arguments.capture.files[node].path).values.size, int(np.prod(shape))
        sound = count == expected and count > 0
        problems[node] = "" if sound else f"{count} values, its shape {list(shape)} has {expected}"
    if not problems:
        return unknown("the shapes are not known: nothing says how many tokens were captured")
    return judged_by_node("wrong counts", problems, f"{counted(len(problems), 'count')} as the shapes say")


def whole_model_file(arguments: CaptureArguments) -> Judgement:
    """A stage of the whole model lies at the root of the capture, says so in its header, and has the model's width."""
    problems = {node: _root_problem(arguments.capture, node) for node in arguments.nodes}
    return judged_by_node("wrong files", problems, "at the root, marked as the whole model's")


def _root_problem(capture: Capture, node: Node) -> str:
    entry = capture.files[node]
    file = read_aprt(entry.path)
    if entry.path.parent != capture.folder:
        return "it lies in a folder of a layer"
    if file.layer is not None:
        return f"its header says layer {file.layer}"
    width = capture.graph[node.stage].width if capture.graph.config is not None else 0
    return f"{file.values.size} values, no multiple of {width}" if width and file.values.size % width else ""


def nan_preservation(arguments: CaptureArguments) -> Judgement:
    """A NaN that was injected is in the file where it belongs.

    The faults that the capture records say where it was injected. A NaN must also be at the same element of every
    captured stage that is computed element by element, and as often as the capture's own statistics say. A capture
    without any NaN proves nothing.
    """
    capture = arguments.capture
    injected = [node for node in _injected_nan(capture) if node in arguments.nodes or not arguments.names_stages]
    missing = [node for node in injected if node not in capture.files]
    if missing:
        return not_testable(f"{missing[0]}, where the NaN went in")
    holding = [node for node in arguments.nodes if _nan_count(capture, node)]
    if not injected and not holding:
        return unknown("no NaN went in: capture with --inject …,kind=nan")
    lost = [node for node in injected if node not in holding]
    lost += [node for node in arguments.nodes if node not in lost and _recorded_otherwise(capture, node)]
    lost += [node for node in _dropped(capture, holding) if node not in lost]
    if lost:
        return counted_wrong("stages that lost a NaN", tuple(lost), (), f"{lost[0]} lost its NaN")
    where = f"injected at {injected[0]}" if injected else f"first at {holding[0]}"
    reason = f"NaN in {counted(len(holding), 'stage tensor')}, {where}, none lost"
    return counted_wrong("stages that lost a NaN", (), tuple(holding), reason)


def _injected_nan(capture: Capture) -> Iterator[Node]:
    for fault in () if capture.manifest is None else capture.manifest.engine.faults:
        fields = dict(piece.partition("=")[::2] for piece in fault.split(","))
        if fields.get("kind") == "nan":
            layer = fields.get("layer")
            yield Node(int(layer) if layer and layer.isdecimal() and len(layer) < 6 else None, fields.get("stage", ""))


def _recorded_nan(capture: Capture, node: Node) -> int | None:
    """The count of NaN that the writer recorded; None where it recorded none."""
    if capture.manifest is None:
        return None
    info = next((info for info in capture.manifest.files.values() if info.node == node), None)
    return info.stats.nan if info is not None and info.stats is not None else None


def _nan_count(capture: Capture, node: Node) -> int:
    """The count of NaN in the file of `node`; a file whose writer counted 0 is not read."""
    if _recorded_nan(capture, node) == 0:
        return 0
    values = capture.values(node)
    causal = capture.graph[node.stage].is_attention_map and values.ndim == 3
    return tensor_stats(values, causal=causal).nan


def _recorded_otherwise(capture: Capture, node: Node) -> bool:
    recorded = _recorded_nan(capture, node)
    return recorded is not None and recorded != _nan_count(capture, node)


def _dropped(capture: Capture, holding: list[Node]) -> Iterator[Node]:
    """Captured elementwise stages without a NaN at an element where one of their inputs has one."""
    for node in capture.files:
        stage = capture.graph[node.stage]
        if stage.op not in _ELEMENTWISE:
            continue
        for entry, source in zip(capture.graph.entries(node), capture.graph.inputs(node), strict=True):
            if entry.part is Part.WHOLE and source in holding and not _keeps_nan(capture, source, node):
                yield node
                break


def _keeps_nan(capture: Capture, source: Node, node: Node) -> bool:
    before, after = capture.values(source).reshape(-1), capture.values(node).reshape(-1)
    # Where a stage between the two was not captured, their sizes may differ, and nothing can be compared.
    return before.size != after.size or not bool((np.isnan(before) & ~np.isnan(after)).any())


def diff_identity(arguments: CaptureArguments) -> Judgement:
    """The diff of a stage file with itself is 0, 0 and 1. Files with NaN, and files of zeros alone, are left out."""
    wrong, judged, largest = [], [], 0.0
    for node in arguments.nodes:
        file = arguments.capture.read(node)
        record = apr_stage_diff(file, file, 1, Verdict.PASS)
        if record["rms_diff"] is None or not record["cosine_sim"]:
            continue
        judged.append(node)
        error = max(record["max_abs_diff"], record["rms_diff"], abs(1 - record["cosine_sim"]))
        largest = max(largest, error)
        if error > _IDENTITY:
            wrong.append(node)
    if not judged:
        return unknown("no file holds finite values other than zero")
    reason = f"{wrong[0]} differs from itself" if wrong else f"{counted(len(judged), 'file')}, each equal to itself"
    nodes = tuple(wrong or judged)
    return passed_if(not wrong, reason, "largest of max, rms, 1 − cosine", largest, _IDENTITY, nodes)


def completion_parses(arguments: CaptureArguments) -> Judgement:
    """The program in what the captured run generated (`extracted_python` states by which rule) is valid Python."""
    import ast

    manifest = arguments.capture.manifest
    if manifest is None or manifest.text is None or manifest.completion is None:
        return unknown("the capture records no text that was generated: capture with -p and --generate")
    source = extracted_python(manifest.text, manifest.completion)
    if not source.strip():
        return unknown("no complete statement was generated: capture with a longer --generate")
    try:
        nodes = sum(1 for _ in ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        return passed_if(False, f"line {line}: {error.args[0] if error.args else error}", "syntax errors", 1, 0)
    logits = tuple(node for node in arguments.nodes if arguments.capture.graph[node.stage].holds_logits)
    reason = f"{counted(len(source.splitlines()), 'line')} parse to {counted(nodes, 'syntax node')}"
    return passed_if(True, reason, "syntax errors", 0, 0, logits)


def layer_subset(arguments: CaptureArguments) -> Judgement:
    """The files are those of the requested stages and layers, and no other layer has any.

    The manifest lists what was requested. A capture of all layers proves nothing, nor does one of another selection
    than the parameters name. Without a manifest only the parameters tell what was requested, and a capture that does
    not fit them may have been requested as it is.
    """
    capture = arguments.capture
    claimed = (
        frozenset(wanted_nodes(capture.graph, arguments.parameters)[0]) if LAYERS in arguments.parameters else None
    )
    present = {node for node, _ in claimed_files(capture.folder)}  # stale files too
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


def _layers_text(layers: set[int]) -> str:
    return f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(str(layer) for layer in sorted(layers))}"


def multi_stage(arguments: CaptureArguments) -> Judgement:
    """Several stages requested in one run were all captured, in every captured layer that has them."""
    stages = {node.stage for node in arguments.nodes}
    if len(stages) < 2:
        return unknown("one stage was captured: capture several in one run")
    capture = arguments.capture
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


def replay_holds(arguments: CaptureArguments) -> Judgement:
    """Every stage in question, computed again from its captured inputs, is within the bound of an honest engine."""
    model = in_form_of(arguments.capture, arguments.require_model())
    names = named_stages(arguments.parameters)
    selection = Selection(
        stages=",".join(names) if names else None, layers=_layers(arguments) if LAYERS in arguments.parameters else None
    )
    with Evaluators(model) as evaluators:
        comparison = replay_capture(arguments.capture, model, ReplayOptions(selection), evaluators)
    if comparison.verdict is Verdict.UNKNOWN:
        return unknown("; ".join(comparison.reasons))
    if comparison.first_divergence is None:
        return _held(comparison)
    found = comparison.first_divergence.verdict
    blamed = tuple(node for node in comparison.first_divergence.segment if node in arguments.nodes) or (found.node,)
    return Judgement(
        Verdict.FAIL, f"first at {found.node}: {found.reason}", found.metric, found.error, found.bound, blamed
    )


def _layers(arguments: CaptureArguments) -> str:
    value = arguments.parameters[LAYERS]
    return ",".join(map(str, value)) if isinstance(value, list) else layers_text(arguments.parameters)


def _held(comparison: Comparison) -> Judgement:
    """PASS with the stage that comes nearest to its bound; any stage where all are equal to the bit."""
    worst = max((stage.verdict for stage in comparison.stages), key=_share)
    reason = f"{counted(comparison.compared, 'stage')} replayed, nearest to its bound: {worst.node}"
    nodes = tuple(stage.node for stage in comparison.stages)
    return Judgement(Verdict.PASS, reason, worst.metric, worst.error or 0.0, worst.bound or 0.0, nodes)


def _share(verdict: StageVerdict) -> float:
    return (verdict.error or 0.0) / verdict.bound if verdict.bound else 0.0
