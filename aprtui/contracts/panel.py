"""What a panel of a contract shows, as plain data: a row a falsifier, judged on the capture at hand.

    rows = panel(document, capture)
    rows[0].falsifier.claims        # status chips: words as written, with their rank
    rows[0].binding                 # stages and layers, marked where inferred
    rows[0].nodes                   # cells to light
    rows[0].judgement               # PASS, FAIL, UNKNOWN with number and bound; None: nothing judges it
    rows[0].backing                 # recorded evidence, whether it holds, and the level that it carries

Judging reads the values that a check needs: call it outside of the thread that draws.
"""

from __future__ import annotations

from dataclasses import dataclass

from aprtui.contracts.binding import Binding, bind
from aprtui.contracts.checks.arguments import Subject
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.checks.mapping import CheckMap, check_of, own_mapping
from aprtui.contracts.documents.document import CheckCall, Document, Falsifier
from aprtui.contracts.evaluation import evaluate
from aprtui.contracts.evidence.assessment import Backing, Ledger, ledger_of
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node


@dataclass(frozen=True, slots=True)
class PanelRow:
    """One falsifier. `nodes` are cells of the capture: those that the judgement is about, else those of the binding;
    empty without a capture. `life_cycle` is the document's and says nothing about the falsifier. `backing` is what was
    recorded about it, which is apart from the judgement: that is of now."""

    falsifier: Falsifier
    life_cycle: str
    check: CheckCall | None
    binding: Binding
    nodes: tuple[Node, ...]
    judgement: Judgement | None
    backing: Backing


def panel(
    document: Document,
    capture: Capture | None = None,
    reference: Capture | None = None,
    mapping: CheckMap | None = None,
    ledger: Ledger | None = None,
) -> tuple[PanelRow, ...]:
    """A row for each falsifier of `document`, in its order.

    `reference` is the other capture where two are open. `mapping` binds checks to falsifiers that name none; the one
    that comes with the program where it is None. `ledger` is the contract's recorded evidence, which is read where it
    is None. Raises nothing for what a contract, a capture or evidence holds.
    """
    subject = Subject(capture, reference)
    ledger = ledger_of(document) if ledger is None else ledger
    return tuple(panel_row(document, falsifier, subject, mapping, ledger) for falsifier in document.falsifiers)


def panel_row(
    document: Document, falsifier: Falsifier, subject: Subject, mapping: CheckMap | None = None,
    ledger: Ledger | None = None,
) -> PanelRow:  # fmt: skip
    """The row of one falsifier; `mapping` and `ledger` as of `panel`."""
    ledger = ledger_of(document) if ledger is None else ledger
    mapping = own_mapping() if mapping is None else mapping
    check = check_of(falsifier, mapping)
    binding = bind(document, falsifier, check)
    judgement = evaluate(document, falsifier, subject, mapping)
    nodes = judgement.nodes if judgement is not None else ()
    if not nodes and subject.capture is not None:
        nodes = binding.nodes(subject.capture.graph)
    backing = ledger.backing(falsifier, check)
    return PanelRow(falsifier, document.life_cycle, check, binding, nodes, judgement, backing)
