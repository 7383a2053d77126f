"""The sweep screen: a matrix of verdicts, prompts × pairs of engines, and the stages that they fail at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from rich.table import Table as TextTable
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from aprtui.compare.verdict import Verdict
from aprtui.errors import AprtuiError
from aprtui.sweep.matrix import VerdictMatrix, counts_of, matrix_of
from aprtui.sweep.results import RESULTS, ROLLUP, ResultRow, RollupRow, is_sweep, read_rows
from aprtui.sweep.rollup import worst_first
from aprtui.tui.frame.keymap import Chord
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.sweep.cells import (
    SIGNS,
    STAGE_COLUMNS,
    cell_words,
    detail_lines,
    diff_words,
    lines_of,
    missing_words,
    stage_rows,
    titles_of,
)
from aprtui.tui.widgets.cell_table import CellTable
from aprtui.tui.widgets.table import Table

EXPLANATION = """\
The results of aprtui sweep: a line for each prompt, a column for each pair of engines (on each model), and in each \
cell the verdict with the first wrong stage. Enter opens the two captures in Diff; of a replay, the capture in Browse. \
Captures that were not kept have to be made again: the pane below has the command, and so has y.

v shows the stages instead, over all prompts: how often each is the first wrong one, how often it fails (which, behind \
the first wrong stage, may be inherited), and its largest error over the noise floor.
"""
NO_SWEEP = """\
No results of a sweep here.
`aprtui sweep PLAN.yaml` makes some, and `aprtui open FOLDER` shows them; so does a folder called *-sweep in the \
working directory."""
STAGES = "stages"


class SweepScreen(ToolScreen):
    """The results in one folder."""

    NAME = ScreenName.SWEEP
    EXPLANATION = EXPLANATION
    SIGNS = tuple((sign, verdict.value) for verdict, (sign, _) in SIGNS.items())
    WIDGETS = (CellTable,)
    AUTO_FOCUS = "#matrix"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "turn_view", "Prompts or stages", id="sweep.view"),
        Binding("r", "read_again", "Read again", id="sweep.read"),
    ]
    CHORDS = (
        Chord("] d", "divergence(1)", "Next cell that does not pass", "sweep.next"),
        Chord("[ d", "divergence(-1)", "Cell before that does not pass", "sweep.previous"),
    )
    DEFAULT_CSS = """
    SweepScreen {
        #matrix, #stages { height: 1fr; min-height: 5; }
        #details { height: auto; max-height: 40%; }
        #stages { display: none; }
        &.-of-stages #stages { display: block; }
        &.-of-stages #matrix, &.-of-stages #details { display: none; }
    }
    """

    class ResultsRead(Message):
        """The tables of the folder were read; `problem` says why they could not be."""

        def __init__(self, rows: list[ResultRow], rollup: list[RollupRow], problem: str) -> None:
            super().__init__()
            self.rows, self.rollup, self.problem = rows, rollup, problem

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        self._folder = state.path("path") or _folder_here()
        self._wanted = state.text("model"), state.text("pair"), state.number("prompt")
        self._of_stages = state.text("view") == STAGES
        self._matrix: VerdictMatrix = matrix_of(())

    def compose_body(self) -> Iterable[Widget]:
        yield CellTable(NO_SWEEP, id="matrix")
        yield Table(STAGE_COLUMNS, "No stages yet.", id="stages")
        with VerticalScroll(id="details", classes="pane"):
            yield Static(id="text")

    def on_mount(self) -> None:
        self.query_one("#details").border_title = "cell"
        if self._of_stages:
            self.action_turn_view()
        self.action_read_again()

    def state(self) -> ScreenState:
        row = self._row
        chosen = {} if row is None else {"model": row.model, "pair": row.pair, "prompt": row.prompt}
        view = STAGES if self.has_class("-of-stages") else ""
        return screen_state(self.NAME, path=self._folder, **chosen, view=view)

    def command(self) -> Sequence[str]:
        return [] if self._row is None or self._folder is None else diff_words(self._row, self._folder)

    def captures(self) -> tuple[Path, ...]:
        row, folder = self._row, self._folder
        if row is None or folder is None:
            return ()
        return tuple(folder / kept for kept in (row.capture_a, row.capture_b) if kept and (folder / kept).is_dir())

    def action_read_again(self) -> None:
        if self._folder is not None:
            self.detail(str(self._folder))
            self._read(self._folder)

    @work(thread=True, exclusive=True)
    def _read(self, folder: Path) -> None:
        try:
            rows = list(read_rows(folder, RESULTS, ResultRow))
            rollup = worst_first(list(read_rows(folder, ROLLUP, RollupRow)))
        except AprtuiError as error:
            self.post_message(self.ResultsRead([], [], str(error)))
        else:
            self.post_message(self.ResultsRead(rows, rollup, ""))

    def on_sweep_screen_results_read(self, message: ResultsRead) -> None:
        self._matrix = matrix_of(message.rows)
        table, stages = self.query_one(CellTable), self.query_one("#stages", Table)
        counts = ", ".join(f"{count} {verdict.value}" for verdict, count in counts_of(message.rows).items())
        table.empty = message.problem or NO_SWEEP
        table.border_title = counts if message.rows else ""
        stages.border_title = "first wrong stages"
        table.show_lines(titles_of(self._matrix), lines_of(self._matrix))
        stages.show(stage_rows(message.rollup))
        model, pair, prompt = self._wanted
        if (model, pair) in self._matrix.columns and prompt in self._matrix.prompts:
            table.point_at(self._matrix.prompts.index(prompt), self._matrix.columns.index((model, pair)))
        self._show_cell()

    @property
    def _row(self) -> ResultRow | None:
        """What the cursor of the matrix is on."""
        cell = self.query_one(CellTable).cell
        return None if cell is None else self._matrix.line(self._matrix.prompts[cell[0]])[cell[1]]

    def _show_cell(self) -> None:
        row, text = self._row, TextTable.grid(padding=(0, 1))
        text.add_column(style="dim", no_wrap=True)
        text.add_column(overflow="fold")
        if row is not None and self._folder is not None:
            for name, line in detail_lines(row, self._folder):
                text.add_row(name, Text(line))
        self.query_one("#text", Static).update(text)
        if not self.has_class("-of-stages"):
            self.say("" if row is None else cell_words(row))

    def on_table_pointed(self, message: Table.Pointed) -> None:
        if message.table.id == "matrix":
            self._show_cell()
        elif isinstance(message.table.key, tuple):
            model, pair, layer, stage = message.table.key
            self.say(f"{model}, {pair}: {stage if layer is None else f'layer {layer} {stage}'}")

    def on_table_chosen(self, message: Table.Chosen) -> None:
        row, folder = self._row, self._folder
        if message.table.id != "matrix" or row is None or folder is None:
            return
        found = self.captures()
        if len(found) == 2:
            judge = "replay" if row.judge == "replay" else ""
            state = screen_state(ScreenName.DIFF, a=found[0], b=found[1], judge=judge, model=row.model_path)
            self.program.open_state(state)
        elif found and not row.a:
            self.program.open_state(screen_state(ScreenName.BROWSE, path=found[0]))
        else:
            self.notify(missing_words(row) if not row.problem else row.problem, severity="warning")

    def action_turn_view(self) -> None:
        """The stages in place of the prompts, or the prompts again."""
        self.toggle_class("-of-stages")
        self.set_focus(self.query_one("#stages" if self.has_class("-of-stages") else "#matrix"))

    def action_divergence(self, step: int) -> None:
        """Go to the next cell that does not pass, in reading order."""
        table, columns = self.query_one(CellTable), len(self._matrix.columns)
        if table.cell is None:
            return
        lines = [self._matrix.line(prompt) for prompt in self._matrix.prompts]
        at, count = table.cell[0] * columns + table.cell[1], len(lines) * columns
        for place in range(at + step, count if step > 0 else -1, step):
            row = lines[place // columns][place % columns]
            if row is not None and row.verdict != Verdict.PASS:
                table.point_at(*divmod(place, columns))
                return
        self.notify("No further cell that does not pass.", severity="warning")


def _folder_here() -> Path | None:
    """The newest results in the working directory."""
    found = [path for path in Path().glob("*-sweep") if is_sweep(path)]
    return max(found, key=lambda path: (path / f"{RESULTS}.jsonl").stat().st_mtime, default=None)
