"""Checks on the bytes of a capture: headers, sizes, NaN, and two runs that must agree to the bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.tokens import align_tokens
from aprtui.compare.report.apr_diff import apr_stage_diff
from aprtui.compare.survey import tensor_stats
from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import counted
from aprtui.contracts.checks.arguments import OnCapture, OnPair
from aprtui.contracts.checks.judgement import Judgement, counted_wrong, not_testable, unknown
from aprtui.errors import UnreadableError
from aprtui.trace.aprt import read_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph import ENTRY, Node, Op, Part

_ELEMENTWISE = (Op.ADD, Op.BIAS, Op.SILU, Op.MULTIPLY)
"""What makes element [token, channel] from that of its inputs alone, so that a NaN there must stay there."""


def byte_format(asked: OnCapture) -> Judgement:
    """Magic, layer and count in the header of each file, and as many bytes as it declares."""
    wrong, first = [], ""
    for node in asked.nodes:
        problem = _format_problem(asked.capture, node)
        if problem:
            wrong.append(node)
            first = first or f"{node}: {problem}"
    return counted_wrong(
        "wrong files", tuple(wrong), asked.nodes, first or f"{counted(len(asked.nodes), 'file')}, all as declared"
    )


def _format_problem(capture: Capture, node: Node) -> str:
    try:
        file = read_aprt(capture.files[node].path)
    except UnreadableError as error:
        return str(error)
    own = capture.files[node].node
    if file.layer != own.layer and not (own == Node(0, ENTRY) and file.layer is None):
        return f"its header says layer {'of the whole model' if file.layer is None else file.layer}"
    return f"{file.trailing} bytes after the declared values" if file.trailing else ""


def header_arithmetic(asked: OnCapture) -> Judgement:
    """The count in each header is the product of the dimensions that the stage must have."""
    wrong, judged, first = [], [], ""
    for node in asked.nodes:
        shape = asked.capture.files[node].shape
        if shape is None:
            continue
        count = read_aprt(asked.capture.files[node].path).values.size
        judged.append(node)
        if count != int(np.prod(shape)) or not count:
            wrong.append(node)
            first = first or f"{node}: {count} values, its shape {list(shape)} has {int(np.prod(shape))}"
    if not judged:
        return unknown("the shapes are not known: nothing says how many tokens were captured")
    return counted_wrong(
        "wrong counts", tuple(wrong), tuple(judged), first or f"{counted(len(judged), 'count')} as the shapes say"
    )


def whole_model_file(asked: OnCapture) -> Judgement:
    """A stage of the whole model lies at the root of the capture, says so in its header, and has the model's width."""
    wrong, first = [], ""
    for node in asked.nodes:
        entry = asked.capture.files[node]
        file = read_aprt(entry.path)
        config = asked.capture.graph.config
        width = asked.capture.graph[node.stage].width if config is not None else 0
        problems = [
            (entry.path.parent != asked.capture.path, "it lies in a folder of a layer"),
            (file.layer is not None, f"its header says layer {file.layer}"),
            (
                bool(width) and file.values.size % max(width, 1) != 0,
                f"{file.values.size} values, no multiple of {width}",
            ),
        ]
        found = next((text for is_so, text in problems if is_so), "")
        if found:
            wrong.append(node)
            first = first or f"{node}: {found}"
    return counted_wrong("wrong files", tuple(wrong), asked.nodes, first or "at the root, marked as the whole model's")


def nan_preservation(asked: OnCapture) -> Judgement:
    """A NaN that went in is in the file where it belongs.

    Where it went in is known from the faults that the capture records. Beyond that, a NaN must still be there at the
    same element of every captured stage that is made element by element, and as often as the capture's own statistics
    say. A capture that no NaN went into proves nothing.
    """
    capture = asked.capture
    injected = [node for node in _injected_nan(capture) if node in asked.nodes or not asked.names_stages]
    missing = [node for node in injected if node not in capture.files]
    if missing:
        return not_testable(f"{missing[0]}, where the NaN went in")
    holding = [node for node in asked.nodes if _nan_count(capture, node)]
    if not injected and not holding:
        return unknown("no NaN went in: capture with --inject …,kind=nan")
    lost = [node for node in injected if node not in holding]
    lost += [node for node in asked.nodes if node not in lost and _recorded_otherwise(capture, node)]
    lost += [node for node in _dropped(capture, holding) if node not in lost]
    if lost:
        return counted_wrong("stages that lost a NaN", tuple(lost), (), f"{lost[0]} lost its NaN")
    where = f"injected at {injected[0]}" if injected else f"first at {holding[0]}"
    return counted_wrong(
        "stages that lost a NaN",
        (),
        tuple(holding),
        f"NaN in {counted(len(holding), 'stage tensor')}, {where}, none lost",
    )


def _injected_nan(capture: Capture) -> Iterator[Node]:
    for fault in () if capture.manifest is None else capture.manifest.engine.faults:
        fields = dict(piece.partition("=")[::2] for piece in fault.split(","))
        if fields.get("kind") == "nan":
            layer = fields.get("layer")
            yield Node(int(layer) if layer and layer.isdecimal() else None, fields.get("stage", ""))


def _recorded_nan(capture: Capture, node: Node) -> int | None:
    """How many NaN the writer counted; None where nothing says."""
    if capture.manifest is None:
        return None
    info = next((info for info in capture.manifest.files.values() if info.node == node), None)
    return info.stats.nan if info is not None and info.stats is not None else None


def _nan_count(capture: Capture, node: Node) -> int:
    """NaN in the file of `node`; a file whose writer counted none is not read."""
    if _recorded_nan(capture, node) == 0:
        return 0
    values = capture.values(node)
    causal = capture.graph[node.stage].is_attention_map and values.ndim == 3
    return tensor_stats(values, causal=causal).nan


def _recorded_otherwise(capture: Capture, node: Node) -> bool:
    recorded = _recorded_nan(capture, node)
    return recorded is not None and recorded != _nan_count(capture, node)


def _dropped(capture: Capture, holding: list[Node]) -> Iterator[Node]:
    """Captured stages without a NaN at an element where an input, from which that element alone is made, has one."""
    for node in capture.files:
        stage = capture.graph[node.stage]
        if stage.op not in _ELEMENTWISE:
            continue
        for entry, source in zip(stage.inputs, capture.graph.inputs(node), strict=False):
            if entry.part is Part.WHOLE and source in holding and not _keeps_nan(capture, source, node):
                yield node
                break


def _keeps_nan(capture: Capture, source: Node, node: Node) -> bool:
    before, after = _flat(capture, source), _flat(capture, node)
    # A stage between them may not have been captured, and then widths say nothing of one another.
    return before.size != after.size or not bool((np.isnan(before) & ~np.isnan(after)).any())


def _flat(capture: Capture, node: Node) -> NDArray[np.float32]:
    return capture.values(node).reshape(-1)


def determinism(asked: OnPair) -> Judgement:
    """Two runs on the same tokens wrote the same bytes."""
    if asked.capture.path.resolve() == asked.reference.path.resolve():
        return unknown("both are one capture: give the capture of another run")
    alignment = align_tokens(asked.reference, asked.capture)
    if alignment.proven_different:
        return unknown(f"{alignment.problem}: give two runs on the same tokens")
    wrong = tuple(node for node in asked.nodes if not _same_bits(asked.reference, asked.capture, node))
    reason = f"{wrong[0]} differs" if wrong else f"{counted(len(asked.nodes), 'file')}, the same to the bit"
    return counted_wrong("files that differ", wrong, asked.nodes, reason)


def _same_bits(a: Capture, b: Capture, node: Node) -> bool:
    left, right = a.read(node), b.read(node)
    return left.layer == right.layer and np.array_equal(left.values.view(np.uint32), right.values.view(np.uint32))


def count_parity(asked: OnPair) -> Judgement:
    """Both captures hold as many values of each stage: statistics over other samples must not be compared."""
    wrong, first = [], ""
    for node in asked.nodes:
        sizes = asked.reference.read(node).values.size, asked.capture.read(node).values.size
        if sizes[0] != sizes[1]:
            wrong.append(node)
            first = first or f"{node}: {sizes[1]} values, the reference has {sizes[0]}"
    return counted_wrong(
        "counts that differ", tuple(wrong), asked.nodes, first or f"{counted(len(asked.nodes), 'count')}, all alike"
    )


def diff_identity(asked: OnCapture) -> Judgement:
    """The diff of a stage file with itself is 0, 0 and 1. Files with NaN or of zeros alone are left out."""
    wrong, judged, largest = [], [], 0.0
    for node in asked.nodes:
        file = asked.capture.read(node)
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
    verdict = Verdict.FAIL if wrong else Verdict.PASS
    reason = f"{wrong[0]} differs from itself" if wrong else f"{counted(len(judged), 'file')}, each equal to itself"
    return Judgement(verdict, reason, "largest of max, rms, 1 − cosine", largest, _IDENTITY, tuple(wrong or judged))


_IDENTITY = 1e-9


def completion_parses(asked: OnCapture) -> Judgement:
    """The prompt and what the captured run generated of it are together Python without a syntax error."""
    import ast

    manifest = asked.capture.manifest
    if manifest is None or manifest.text is None or manifest.completion is None:
        return unknown("the capture records no text that was generated: capture with -p and --generate")
    try:
        nodes = sum(1 for _ in ast.walk(ast.parse(manifest.text + manifest.completion)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        return Judgement(
            Verdict.FAIL, f"line {line}: {error.args[0] if error.args else error}", "syntax errors", 1.0, 0.0
        )
    return Judgement(
        Verdict.PASS, f"parses to {counted(nodes, 'syntax node')}", "syntax errors", 0.0, 0.0, _logits(asked)
    )


def _logits(asked: OnCapture) -> tuple[Node, ...]:
    return tuple(node for node in asked.nodes if asked.capture.graph[node.stage].holds_logits)
