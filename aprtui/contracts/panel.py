"""What a panel of a contract shows, as plain data: a row a falsifier, judged on the capture at hand.

    rows = panel(document, capture)
    rows[0].falsifier.claims        # status chips: words as written, with their rank
    rows[0].binding                 # stages and layers, marked where inferred
    rows[0].nodes                   # cells to light
    rows[0].judgement               # PASS, FAIL, UNKNOWN with number and bound; None: nothing judges it

Judging reads the values that a check needs: call it outside of the thread that draws.
"""

from __future__ import annotations

from dataclasses import dataclass

from aprtui.contracts.binding import Binding, bind
from aprtui.contracts.checks.asked import Subject
from aprtui.contracts.document import CheckCall, Document, Falsifier
from aprtui.contracts.evaluation import CheckMap, check_of, evaluate
from aprtui.contracts.judgement import Judgement
from aprtui.contracts.mapping import own_mapping
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node


@dataclass(frozen=True, slots=True)
class PanelRow:
    """One falsifier. `nodes` are cells of the capture: those that the judgement is about, else those of the binding;
    empty without a capture. `life_cycle` is the document's and says nothing about the falsifier."""

    falsifier: Falsifier
    life_cycle: str
    check: CheckCall | None
    binding: Binding
    nodes: tuple[Node, ...]
    judgement: Judgement | None


def panel(
    document: Document,
    capture: Capture | None = None,
    reference: Capture | None = None,
    mapping: CheckMap | None = None,
) -> tuple[PanelRow, ...]:
    """A row for each falsifier of `document`, in its order.

    `reference` is the other capture where two are open. `mapping` binds checks to falsifiers that name none; the one
    that comes with the program where it is None. Raises nothing for what a contract or a capture holds.
    """
    subject = Subject(capture, reference)
    return tuple(panel_row(document, falsifier, subject, mapping) for falsifier in document.falsifiers)


def panel_row(document: Document, falsifier: Falsifier, subject: Subject, mapping: CheckMap | None = None) -> PanelRow:
    """The row of one falsifier; `mapping` as of `panel`."""
    mapping = own_mapping() if mapping is None else mapping
    check = check_of(falsifier, mapping)
    binding = bind(document, falsifier, check)
    judgement = evaluate(document, falsifier, subject, mapping)
    nodes = judgement.nodes if judgement is not None else ()
    if not nodes and subject.capture is not None:
        nodes = binding.nodes(subject.capture.graph)
    return PanelRow(falsifier, document.life_cycle, check, binding, nodes, judgement)
