"""The comparison of two recordings as text for 80 columns, and as the records of `--json`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import number_text
from aprtui.recordings.alignment.meaning import Deviation, MeaningComparison, Pin, SideNode
from aprtui.recordings.reading import Recording
from aprtui.recordings.report import engine_text, wrapped

DIFF_SCHEMA = "aprtui-recording-diff-v1"

METHOD = (
    "both graphs in exact arithmetic between products; products of one weight are pinned to one another, by the "
    "values of the weight"
)
"""How two recordings are held against one another."""


def diff_lines(a: Recording, b: Recording, found: MeaningComparison) -> Iterator[str]:
    """The sides, how they were aligned, and the verdict."""
    for letter, side in (("A", a), ("B", b)):
        yield f"{letter}          {side.path}"
        yield from wrapped("", engine_text(side.header))
    yield ""
    yield from wrapped("method", METHOD)
    yield from wrapped("weights", f"{found.matched} of {found.weights} matrices of B are in A")
    share = f" ({100 * found.unique / found.products:.1f} %)" if found.products else ""
    yield from wrapped("pinned", f"{found.unique} of {found.products} products of B to exactly one of A{share}")
    judged = [pin for pin in found.pins if pin.error is not None]
    if judged:
        worst = max(judged, key=lambda pin: pin.error or 0.0)
        yield from wrapped(
            "exact", f"{number_text(worst.error)} apart at most, before {_node_text(worst.b)}; bound "
            f"{number_text(worst.bound)}"
        )  # fmt: skip
    numeric = [pin for pin in found.pins if pin.numeric is not None]
    if numeric:
        far = max(numeric, key=lambda pin: pin.numeric or 0.0)
        yield from wrapped(
            "engines", f"what both computed is {number_text(far.numeric)} apart at most, at {_node_text(far.b)}: "
            "rounding and what is inherited; replay judges each engine's ops"
        )  # fmt: skip
    for statement in found.statements:
        yield from wrapped("note", statement)
    yield ""
    yield from wrapped("verdict", f"{found.verdict}: {found.reason}")
    if found.deviation is not None:
        yield from _deviation_lines(found.deviation)


def _deviation_lines(deviation: Deviation) -> Iterator[str]:
    pin = deviation.pin
    before = f"before {_node_text(pin.b)}" if pin.weight else "at the end of the graph"
    yield from wrapped(
        "first", f"{before} (graph {pin.graph}): {number_text(pin.error)} apart, bound {number_text(pin.bound)}"
    )
    for letter, node in (("A", deviation.a), ("B", deviation.b)):
        if node is not None:
            yield from wrapped(f"in {letter}", f"from {_node_text(node)} on: values that the other side has nowhere")


def _node_text(node: SideNode) -> str:
    return f"op {node.index}, {node.op}, {node.name}"


def diff_steps(a: Recording, b: Recording, found: MeaningComparison) -> Iterator[str]:
    """Commands that look at what this one leaves out."""
    if found.verdict is not Verdict.FAIL:
        yield "next  judge what each engine computed:"
        yield shlex.join(["aprtui", "replay", str(b.path)])
        yield shlex.join(["aprtui", "replay", str(a.path)])


def diff_records(a: Recording, b: Recording, found: MeaningComparison) -> Iterator[Mapping[str, Any]]:
    """A header, a record for each pinned pair, and the summary."""
    yield {
        "record": "header", "schema": DIFF_SCHEMA, "path_a": str(a.path), "path_b": str(b.path),
        "engine_a": engine_text(a.header), "engine_b": engine_text(b.header), "tokens": a.header.tokens,
        "method": METHOD, "statements": found.statements,
    }  # fmt: skip
    for pin in found.pins:
        yield {"record": "pair", **_pin_record(pin)}
    deviation = found.deviation
    yield {
        "record": "summary", "verdict": str(found.verdict), "reason": found.reason, "products": found.products,
        "unique": found.unique, "weights": found.weights, "matched": found.matched,
        "first_divergence": None if deviation is None else {
            **_pin_record(deviation.pin), "in_a": _side_record(deviation.a), "in_b": _side_record(deviation.b),
        },
    }  # fmt: skip


def _pin_record(pin: Pin) -> Mapping[str, Any]:
    return {
        "graph": pin.graph, "a": _side_record(pin.a), "b": _side_record(pin.b), "weight": pin.weight,
        "unique": pin.unique, "error": pin.error, "bound": pin.bound, "numeric": pin.numeric, "reason": pin.reason,
    }  # fmt: skip


def _side_record(node: SideNode | None) -> Mapping[str, Any] | None:
    if node is None:
        return None
    return {
        "index": node.index, "op": node.op, "name": node.name.text, "layer": node.name.layer, "stage": node.name.stage,
    }  # fmt: skip
