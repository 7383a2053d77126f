"""Why stages err: each cause with its proof, and all alternatives that were tried, with why they are refuted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from aprtui.compare.causes import cause_sentence, tried_words, unexplained_lines
from aprtui.compare.comparison import Comparison, TriedAlternative
from aprtui.compare.wording import counted, number_text
from aprtui.trace.graph.stage import Node
from aprtui.tui.frame.key_line import KeyLine
from aprtui.tui.widgets.table import Column, Row, Table, Tone

COLUMNS = (
    Column(""), Column("stage", rank=1), Column("computed so", grows=True, least=30), Column("leaves", right=True),
    Column("refuted", grows=True, rank=2),
)  # fmt: skip
_MOST = 4
"""Causes that are shown in full; the table holds those of all."""


def cause_texts(comparison: Comparison) -> list[str]:
    """What is known of why, a paragraph for each cause: its sentence, what to do, and what cannot be told from it."""
    texts = []
    for cause in comparison.causes[:_MOST]:
        alike = f" As well: {'; '.join(cause.alike)}. Told apart by {cause.settled_by}." if cause.alike else ""
        texts.append(f"{cause_sentence(cause)}. To do: {cause.advice}.{alike}")
    if len(comparison.causes) > _MOST:
        texts.append(f"{counted(len(comparison.causes) - _MOST, 'more cause')} in the list.")
    return [*texts, *(f"{text[:1].upper()}{text[1:]}." for text in unexplained_lines(comparison))]


def alternative_rows(alternatives: Sequence[TriedAlternative]) -> list[Row]:
    """A row for each alternative: those that are proved, then the others as they were tried."""
    order = sorted(enumerate(alternatives), key=lambda pair: not pair[1].is_proved)
    return [
        Row(
            place,
            (
                "proved" if one.is_proved else "no", f"{one.side} {one.node}".strip(), one.words,
                number_text(one.residue), one.refuted,
            ),
            Tone.MARKED if one.is_proved else Tone.PLAIN,
        )
        for place, one in order
    ]  # fmt: skip


class CausesDialog(ModalScreen[Node | None]):
    """Returns the stage that was chosen, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,D", "leave", "Leave", priority=True),
    ]
    DEFAULT_CSS = """
    CausesDialog { align: center middle; }
    CausesDialog > Vertical { width: 150; max-width: 100%; height: 1fr; }
    CausesDialog {
        #proofs { height: auto; max-height: 50%; overflow-y: auto; margin-bottom: 1; }
        #tried { height: 1fr; min-height: 4; border: none; padding: 0; }
        #row { height: 4; color: $text-muted; padding-top: 1; }
    }
    """

    def __init__(self, comparison: Comparison) -> None:
        super().__init__()
        self._comparison = comparison

    def compose(self) -> ComposeResult:
        with Vertical(classes="pane") as box:
            box.border_title = "Why it errs"
            yield Static("\n".join(cause_texts(self._comparison)), id="proofs", markup=False)
            yield Table(COLUMNS, id="tried")
            yield Static(id="row", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        table = self.query_one(Table)
        table.remove_class("pane")
        table.show(alternative_rows(self._comparison.alternatives))
        table.focus()
        self.on_table_pointed()

    def on_table_pointed(self) -> None:
        """Show the row under the cursor in full: the table may have no room for all of it."""
        tried = self._tried
        self.query_one("#row", Static).update("" if tried is None else tried_words(tried))

    def on_table_chosen(self) -> None:
        tried = self._tried
        self.dismiss(None if tried is None else tried.at)

    def action_leave(self) -> None:
        self.dismiss(None)

    @property
    def _tried(self) -> TriedAlternative | None:
        key = self.query_one(Table).key
        return self._comparison.alternatives[key] if isinstance(key, int) else None
