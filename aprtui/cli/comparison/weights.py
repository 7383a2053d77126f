"""`aprtui diff MODEL MODEL --weights`: the text of a comparison of two model files, for 80 columns without colour."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aprtui.cli.comparison.options import print_sections
from aprtui.cli.comparison.render import wrapped
from aprtui.compare.align.coverage import Selection
from aprtui.compare.verdict import DEFAULT_METRIC, Tolerance, Verdict
from aprtui.compare.wording import counted, figures_text, number_text
from aprtui.errors import VERDICT_CODES, printable

if TYPE_CHECKING:
    from aprtui.model.weight_difference.compare import ModelDifference, TensorDifference

_LAYER = re.compile(r"^blk\.(\d+)\.")


def diff_weights(
    a: Path, b: Path, selection: Selection, tolerances: Sequence[Tolerance], limit: int, as_json: bool
) -> int:
    """Compare the model files and print what was found; at most `limit` tensors and keys are described one by one.

    Returns the exit code. Raises what `compare_models` raises.
    """
    from aprtui.cli.json_lines import write_record
    from aprtui.cli.progress import ProgressLine
    from aprtui.model.weight_difference.compare import compare_models
    from aprtui.model.weight_difference.records import weight_records

    with ProgressLine() as progress:
        progress_on_terminal = progress if sys.stderr.isatty() else None
        difference = compare_models(a, b, selection, tolerances, progress_on_terminal)
    if as_json:
        for record in weight_records(a, b, difference):
            write_record(record)
    else:
        print_sections(
            _header_lines(a, b, difference, limit),
            _table_lines(difference),
            _detail_lines(difference, limit),
            _verdict_lines(difference, a, b, selection, tolerances),
        )
    return VERDICT_CODES[difference.verdict]


def _header_lines(a: Path, b: Path, difference: ModelDifference, limit: int) -> Iterator[str]:
    yield f"A  {a}"
    yield f"B  {b}"
    for note in difference.notes:
        yield from wrapped("   note", printable(note))
    for entry in difference.metadata[: max(limit, len(difference.number_changing))]:
        mark = "changes numbers: " if entry.changes_numbers else ""
        yield from wrapped(f"   {printable(entry.key)}:", f"{mark}A {_side(entry.a)} · B {_side(entry.b)}")
    more = len(difference.metadata) - max(limit, len(difference.number_changing))
    if more > 0:
        yield f"   and {counted(more, 'more key')} that do not change numbers"
    if not difference.metadata:
        yield "   the metadata are equal"


def _side(text: str | None) -> str:
    return "absent" if text is None else printable(text)


def _table_lines(difference: ModelDifference) -> Iterator[str]:
    """A row for each kind of tensor over all its layers, with the numbers of the worst layer."""
    if not difference.tensors:
        return
    columns = f"{'types':>10}{'rel_l2':>9}{'expected':>9}{'steps':>6}{'equal':>6}"
    yield f"{'tensor':<20} {'verdict':<7}{'first':>6}{'worst':>6}{columns}"
    kinds: dict[str, list[TensorDifference]] = {}
    for tensor in difference.tensors:
        kinds.setdefault(_LAYER.sub("", tensor.name), []).append(tensor)
    for kind, layers in kinds.items():
        yield _row(printable(kind), layers)
    yield "first: first layer that does not pass; worst: layer of these numbers; expected:"
    yield "rel_l2 of rounding to these types; steps: worst 32 values in units of that error"


def _row(kind: str, layers: Sequence[TensorDifference]) -> str:
    first = next((tensor for tensor in layers if tensor.judgement.verdict is not Verdict.PASS), None)
    worst = max(layers, key=_badness)
    verdict = worst.judgement.verdict.value
    types = worst.types[0] if worst.types[0] == worst.types[1] else "/".join(worst.types)
    name = kind if len(kind) <= 20 else f"{kind[:19]}…"
    head = f"{name:<20} {verdict:<7}{_layer(first):>6}{_layer(worst):>6}{types:>10}"
    if worst.bit_equal:
        return f"{head}{'0':>9}{'–':>9}{'–':>6}{'100%':>6}"
    if worst.metrics is None:
        return f"{head}{'–':>9}{'–':>9}{'–':>6}{'–':>6}"
    numbers = worst.metrics
    steps = None if numbers.step_ratio is None else float(f"{numbers.step_ratio:.2g}")
    # Rounded down: 100 % must mean that every value is equal.
    equal = f"{int(100 * numbers.equal_values)}%"
    rel_l2, expected = number_text(numbers.rel_l2), number_text(numbers.expected_rel_l2)
    return f"{head}{rel_l2:>9}{expected:>9}{number_text(steps):>6}{equal:>6}"


def _badness(tensor: TensorDifference) -> tuple[int, bool, float, float]:
    """Verdict first, then whether the bytes differ, then the error."""
    order = (Verdict.PASS, Verdict.UNKNOWN, Verdict.FAIL)
    numbers = tensor.metrics
    return (
        order.index(tensor.judgement.verdict),
        not tensor.bit_equal,
        (numbers and numbers.step_ratio) or 0.0,
        (numbers and numbers.rel_l2) or 0.0,
    )


def _layer(tensor: TensorDifference | None) -> str:
    match = _LAYER.match(tensor.name) if tensor else None
    return match[1] if match else "–"


def _detail_lines(difference: ModelDifference, limit: int) -> Iterator[str]:
    """A description of each tensor that does not pass, and the tensors that were not compared."""
    for verdict in (Verdict.FAIL, Verdict.UNKNOWN):
        found = [tensor for tensor in difference.tensors if tensor.judgement.verdict is verdict]
        for tensor in found[:limit]:
            label = ", ".join([*map(str, tensor.nodes), tensor.name])
            yield from wrapped(printable(f"{label}:"), "; ".join(_texts(tensor)))
        if len(found) > limit:
            yield f"and {counted(len(found) - limit, 'more tensor')}: {verdict.value}; see them all with --limit"
    for skip in difference.skipped[:limit]:
        held = f"; its bytes are those of {', '.join(skip.same_as[:3])} in the other file" if skip.same_as else ""
        used = ", which is used in its place" if skip.harmless else ""
        yield from wrapped(printable(f"{skip.name}:"), printable(f"not compared: {skip.reason}{held}{used}"))
    if len(difference.skipped) > limit:
        yield f"and {counted(len(difference.skipped) - limit, 'more tensor')} not compared; see them with --limit"


def _texts(tensor: TensorDifference) -> Iterator[str]:
    yield tensor.judgement.reason
    where, numbers = tensor.bytes, tensor.metrics
    if where:
        parts = ", ".join(f"{name} in {counted(count, 'block')}" for name, count in where.parts.items())
        what = f" ({parts})" if parts else ""
        yield (
            f"bytes of {counted(where.blocks, 'block')} in {counted(where.rows, 'row')} differ{what}, "
            f"first row {where.first_row}, block {where.first_block}"
        )
    if numbers and numbers.max_abs is not None:
        yield (
            f"rel_l2 {number_text(numbers.rel_l2)}, cosine {number_text(numbers.cosine)}, "
            f"max abs {number_text(numbers.max_abs)} at {numbers.max_abs_place}"
        )
    yield from (printable(finding) for finding in tensor.findings)


def _verdict_lines(
    difference: ModelDifference, a: Path, b: Path, selection: Selection, tolerances: Sequence[Tolerance]
) -> Iterator[str]:
    from aprtui.model.weight_difference.compare import smallest_tolerance

    word = difference.verdict.value
    for index, text in enumerate(difference.reasons or (_pass_text(difference, tolerances),)):
        yield from wrapped(word if index == 0 else " " * len(word), printable(text))
    equal = sum(tensor.bit_equal for tensor in difference.tensors)
    compared = f"{len(difference.tensors)} of {counted(difference.expected, 'tensor')} compared"
    yield from wrapped("coverage", f"{compared}, {equal} of them bit-equal")
    first = difference.first
    if first and first.judgement.error is not None:
        judged = first.judgement
        figures = figures_text(judged.metric, judged.error, judged.floor, judged.bound)
        yield from wrapped("first", printable(f"{first.name}: {figures}"))
    if any(tensor.metrics and tensor.metrics.max_abs != 0 for tensor in difference.tensors):
        tolerance = smallest_tolerance(difference, tolerances[0].metric if tolerances else DEFAULT_METRIC)
        yield f"smallest  tolerance that passes: {tolerance or 'none would'}"
        # A failure is no noise to accept; a difference that cannot be judged may be.
        if tolerance and difference.verdict is Verdict.UNKNOWN and not tolerances:
            yield "next  accept these differences:"
            yield _command(a, b, selection, tolerance)


def _pass_text(difference: ModelDifference, tolerances: Sequence[Tolerance]) -> str:
    if all(tensor.bit_equal for tensor in difference.tensors):
        return "every compared tensor is bit-equal, and no metadata change numbers"
    within = "the tolerance" if tolerances else "what rounding to their types explains"
    return f"every compared tensor is equal or within {within}, and no metadata change numbers"


def _command(a: Path, b: Path, selection: Selection, tolerance: Tolerance) -> str:
    words = ["aprtui", "diff", str(a), str(b), "--weights"]
    words += ["--stage", selection.stages] if selection.stages is not None else []
    words += ["--layers", selection.layers] if selection.layers is not None else []
    return shlex.join([*words, "--tolerance", str(tolerance)])
