"""The body of the live screen: text, likeliest tokens, logit lens and stage grid of the token looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.segment import Segment
from textual.app import ComposeResult
from textual.containers import Container
from textual.strip import Strip

from aprtui.engine.logit_noise import LogitNoise
from aprtui.engine.process.messages import EngineDescription, Started
from aprtui.engine.process.slots import TokenRecord
from aprtui.trace.graph import graph_for
from aprtui.tui.draw.bars import candidate_bars, lens_bars
from aprtui.tui.draw.colours import tint_styles
from aprtui.tui.draw.figures import figures_of, first_bad
from aprtui.tui.draw.signals import TintSignal, TokenFigures, token_words
from aprtui.tui.draw.text import joined
from aprtui.tui.screens.live.readout import describe, pass_title
from aprtui.tui.screens.live.run import LiveRun
from aprtui.tui.screens.live.state import InitialState
from aprtui.tui.widgets.bar_list import BarList
from aprtui.tui.widgets.contracts.dock import ContractsDock
from aprtui.tui.widgets.line_widget import LineWidget
from aprtui.tui.widgets.stage_grid import StageGrid
from aprtui.tui.widgets.text_stream import TextStream

NO_LENS = "Not computed for this token.\nn makes the next one,\ng starts the run again."


class LiveBody(Container):
    """Shows a `LiveRun` and the passes that the screen gives it, by the statistic, the signal and the lens chosen.

    `paths` are those given on the command line: contracts may be among them.
    """

    SCOPED_CSS: ClassVar[bool] = False  # the width of the screen, an ancestor, decides
    DEFAULT_CSS: ClassVar[str] = """
    LiveBody {
        height: 1fr;
        #panes { layout: horizontal; height: 1fr; }
        #side { layout: horizontal; height: 100%; width: auto; }
        TextStream { width: 1fr; height: 100%; }
        BarList { width: 32; height: 100%; }
        #lens, #dock { display: none; }
        #dock { width: 44; height: 100%; }
    }
    .-narrow StageGrid, .-stacked StageGrid { dock: bottom; width: 100%; height: auto; max-height: 70%; }
    LiveBody.-lens #lens { display: block; }
    .-narrow LiveBody.-lens #candidates { display: none; }
    LiveBody.-contracts #dock, .-wide LiveBody #dock { display: block; }
    .-narrow LiveBody.-contracts #candidates, .-narrow LiveBody.-contracts #lens { display: none; }
    .-wide LiveBody {
        #panes { layout: grid; grid-size: 2 2; grid-columns: 1fr 2fr; grid-rows: auto 1fr; }
        #side { width: 100%; min-height: 13; }
        TextStream { row-span: 2; width: 100%; }
        BarList, #dock { width: 1fr; }
        StageGrid { height: auto; max-height: 66vh; }
    }
    """

    def __init__(self, run: LiveRun, initial: InitialState, paths: Sequence[Path]) -> None:
        super().__init__()
        self._run = run
        self._first_node = initial.node
        self.statistic, self.signal, self.lens = initial.statistic, initial.signal, initial.lens
        self.record: TokenRecord | None = None
        self._before: TokenRecord | None = None
        self.text = TextStream(classes="pane")
        self._candidates = BarList("likeliest tokens", id="candidates", classes="pane")
        self._lens = BarList("logit lens", id="lens", classes="pane")
        self.dock = ContractsDock(paths, id="dock")
        self.dock.can_focus = False  # enter goes to the prompt here; 5 opens the contracts
        self.grid = StageGrid(classes="pane")
        self._line = TokenLine()
        self._text_title = "text"

    def compose(self) -> ComposeResult:
        with Container(id="panes"):
            yield self.text
            yield self.grid
            with Container(id="side"):
                yield self._candidates
                yield self._lens
                yield self.dock
        yield self._line

    def on_mount(self) -> None:
        self.text.border_title = self._text_title
        self.grid.border_title = pass_title(self.statistic, None)
        self._candidates.show([], "No token yet.")
        self.set_class(self.lens, "-lens")

    def words(self, width: int) -> str:
        """What is known of the stage under the cursor, as far as it fits."""
        graph = self.grid.graph
        return "" if graph is None else describe(graph, self.grid.node, self.record, self._before, width)

    def open(self, info: EngineDescription) -> None:
        """Lay out the grid for a model, unless it is laid out already."""
        if self.grid.graph is None or self.grid.graph.config != info.graph:
            self.grid.open_graph(graph_for(info.graph), self._first_node)

    def start(self, event: Started, sampling: str) -> None:
        self.text.border_subtitle = sampling
        self.text.start(event.prompt)

    def show_pass(self, record: TokenRecord, before: TokenRecord | None, grid_alone: bool = False) -> None:
        """Draw a pass and its token, or only its grid; `before` is the pass of the token before."""
        self.record, self._before = record, before
        self.show_grid()
        if grid_alone:
            return
        self._candidates.show(candidate_bars(record, self._run.names), "No token could be chosen.")
        self.show_lens()

    def show_grid(self) -> None:
        record, graph = self.record, self.grid.graph
        self.grid.border_title = pass_title(self.statistic, record)
        if record is not None and graph is not None:
            before = None if self._before is None else self._before.stats
            figures = figures_of(self.statistic, record.stats, record.stage_seconds, before)
            self.grid.show(figures, first_bad(graph, record.stats), notify=False)

    def show_lens(self) -> None:
        """Draw the lens, with the layer under the cursor marked."""
        self.set_class(self.lens, "-lens")
        if self.lens:
            node = self.grid.node
            layer = -1 if node is None or node.layer is None else node.layer
            bars = [] if self.record is None else lens_bars(self.record, self._run.names, layer)
            self._lens.show(bars, NO_LENS)

    def show_place(self) -> None:
        timeline = self._run.timeline
        # While tokens come, the count stands in the line of screens: setting a title draws the whole pane again.
        title = "text" if timeline.live else f"text: {timeline.words()}"
        if title != self._text_title:
            self._text_title = self.text.border_title = title
        self.text.mark(timeline.at)
        self._line.show(self.signal, self._run.token, self._run.noise)

    def show_tints(self) -> None:
        self.text.tint(self._run.tints(self.signal))
        self._line.show(self.signal, self._run.token, self._run.noise)


class TokenLine(LineWidget):
    """The legend of a signal, and a token in words."""

    PREFIX = "token-line"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"token-line--name"}
    DEFAULT_CSS = """
    TokenLine {
        height: 1; padding: 0 1; color: $text-muted;
        .token-line--name { color: $accent; text-style: bold; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._signal = TintSignal.PROBABILITY
        self._words: list[str] = []

    def show(self, signal: TintSignal, token: TokenFigures | None, noise: LogitNoise | None) -> None:
        words = [] if token is None else token_words(token, noise, signal)
        if (signal, words) != (self._signal, self._words):
            self._signal, self._words = signal, words
            self.refresh()

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.style()
        legend = self._legend()
        room = width - sum(segment.cell_length for segment in legend)
        words = joined(self._words, room) if self._words and room > 0 else ""
        name, gap, rest = words.partition(" id ")
        segments = [Segment(name, self.style("name")), Segment(gap + rest, base)]
        return Strip([*legend, *segments]).adjust_cell_length(width, base)

    def _legend(self) -> list[Segment]:
        base = self.style()
        if self._signal is TintSignal.NONE:
            return [Segment("no tint  ", base)]
        sure, unsure = self._signal.ends
        if self.plain:
            return [Segment(f"{self._signal}  ", base)]
        steps = [Segment(" ", base + style) for style in tint_styles(self.background)]
        return [Segment(f"{self._signal} {sure} ", base), *steps, Segment(f" {unsure}   ", base)]
