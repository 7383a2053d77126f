"""The contents of a panel about a contract, as plain data: a row for each falsifier, judged on the current capture.

    rows = tuple(panel(document, capture))
    rows[0].falsifier.claims        # status chips: words as written, with their rank
    rows[0].binding                 # stages and layers, marked where inferred
    rows[0].nodes                   # cells to highlight
    rows[0].sentence                # the rule in plain words, on one line
    rows[0].judgement               # PASS, FAIL, UNKNOWN with number and bound; None: no check judges it
    rows[0].settling                # what an UNKNOWN lacks, and the commands that settle it
    rows[0].assessment              # recorded evidence, whether it holds, and the level that it carries

Judging reads the values that a check needs, so call it outside of the thread that draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aprtui.contracts.binding import Binding, bind
from aprtui.contracts.checks.arguments import CheckSubject
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.checks.mapping import CheckMap, check_of, own_mapping
from aprtui.contracts.documents.document import CheckCall, Document, Falsifier
from aprtui.contracts.evaluation import evaluate
from aprtui.contracts.evidence.assessment import Assessment, Ledger, ledger_of
from aprtui.contracts.settling import Settling, settling
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node


@dataclass(frozen=True, slots=True)
class PanelRow:
    """One falsifier. `nodes` are cells of the capture: those that the judgement is about, else those of the binding;
    empty without a capture. `life_cycle` is the document's and says nothing about the falsifier. `assessment` is about
    earlier, recorded judgements; `judgement` is the one made now. `formulas` are those of the equations that the
    falsifier is bound to."""

    falsifier: Falsifier
    life_cycle: str
    check: CheckCall | None
    binding: Binding
    nodes: tuple[Node, ...]
    judgement: Judgement | None
    assessment: Assessment
    formulas: tuple[str, ...]
    settling: Settling | None

    @property
    def sentence(self) -> str:
        """The rule in words; where they are few, with what it predicts; without any, the first formula."""
        rule, prediction = " ".join(self.falsifier.title.split()), " ".join(self.falsifier.prediction.split())
        if len(rule.split()) < FEW_WORDS and prediction:
            return f"{rule}: {prediction}" if rule else prediction
        return rule or next(iter(self.formulas), "")


FEW_WORDS = 3
"""A rule of fewer words is a heading, no sentence."""


def panel(
    document: Document,
    capture: Capture | None = None,
    reference: Capture | None = None,
    mapping: CheckMap | None = None,
    ledger: Ledger | None = None,
) -> Iterator[PanelRow]:
    """A row for each falsifier of `document`, in its order.

    `reference` is the other capture where two are open. `mapping` binds checks to falsifiers that name none; None means
    the mapping that comes with the program. `ledger` is the contract's recorded evidence; None means that it is read
    here. Each is judged when it is asked for, which takes seconds on a large capture. Nothing that a contract, a
    capture or evidence holds makes this raise.
    """
    subject = CheckSubject(capture, reference)
    ledger = ledger_of(document) if ledger is None else ledger
    mapping = own_mapping() if mapping is None else mapping
    for falsifier in document.falsifiers:
        yield panel_row(document, falsifier, subject, mapping, ledger)


def panel_row(
    document: Document, falsifier: Falsifier, subject: CheckSubject, mapping: CheckMap, ledger: Ledger
) -> PanelRow:
    check = check_of(falsifier, mapping)
    binding = bind(document, falsifier, check)
    judgement = None if check is None else evaluate(document, check, subject)
    nodes = judgement.nodes if judgement is not None else ()
    if not nodes and subject.capture is not None:
        nodes = binding.nodes(subject.capture.graph)
    assessment = ledger.assess(falsifier, check)
    formulas = tuple(equation.formula for equation in document.equations if equation.name in falsifier.binds_to)
    settled_by = settling(document, falsifier, check, judgement, subject)
    return PanelRow(falsifier, document.life_cycle, check, binding, nodes, judgement, assessment, formulas, settled_by)
