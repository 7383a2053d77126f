"""The browse screen: captures and models on this machine, and what is in the one under the cursor."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input
from textual.worker import get_current_worker

from aprtui.compare.wording import counted
from aprtui.errors import AprtuiError
from aprtui.model.discovery.places import FoundModel, models_elsewhere
from aprtui.model.lookup import find_models
from aprtui.recordings.listing import ListedNode
from aprtui.trace.agent_trace import AgentTrace, Speaker
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.figures import Statistic, figures_of, first_bad
from aprtui.tui.draw.text import as_typed, short_path
from aprtui.tui.frame.recent import models_at_hand, models_in_caches, recent_pairs, recent_paths, remember
from aprtui.tui.frame.session import RecordedVerdict, Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.browse.artifacts import Artifact, ArtifactKind, Finder, Listing
from aprtui.tui.screens.browse.contents import (
    CaptureContents,
    Contents,
    ConversationContents,
    ModelContents,
    read_contents,
)
from aprtui.tui.screens.browse.facts import timing_words
from aprtui.tui.screens.browse.replay import Replay, ReplayRequest
from aprtui.tui.screens.browse.rows import (
    ARTIFACT_COLUMNS,
    STAGE_COLUMNS,
    TENSOR_COLUMNS,
    artifact_row,
    artifact_words,
    grid_stats,
    judgement_lines,
    node_rows,
    node_words,
    preview_lines,
    remarks,
    stage_rows,
    stage_words,
    tensor_row,
    tensor_words,
)
from aprtui.tui.widgets.lines import Ink, Lines
from aprtui.tui.widgets.stage_grid import StageGrid
from aprtui.tui.widgets.table import Row, Table
from aprtui.tui.widgets.text_stream import TextStream

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LOOKS_ELSEWHERE = 30.0
"""In the caches of other tools, and in the folders of the configuration."""
SECONDS_BETWEEN_POLLS = 0.1

BROAD, WIDE = 110, 160
"""From these widths on, the preview is beside the contents of an artifact, and has more room there."""

HIGH = 34
"""From this height on, the grid and the table of statistics are shown together."""

EXPLANATION = """\
Above are the captures, recordings of ops, models, recorded sessions, conversations of agents and contracts below the \
working directory, those given on the command line, what was opened lately, pairs of captures among it, and the models \
elsewhere on this machine that `aprtui models` lists. New ones appear by themselves. The column of notes has the \
faults that were injected on purpose, and says which models cannot be run.

Below is a preview of what the cursor is on (on small screens the first view of v): the whole prompt, the model, what \
the engine rounds, the faults, which stages are there. Beside it is what is in it. Of a capture: the stage grid, in \
which a row is a layer, a column a stage, the number the rms of its values, and the colour compares layers; and a \
table with a line for each stage, of a recording also for each op that is none. The numbers come from the manifest; \
without one they are computed, and fill in. Of a model: its tensors, with the smallest and the largest block scale (d, \
dmin) and the range of the dequantised values. Of an agent trace (.jsonl): the conversation, with what tools were \
called for, what they gave, and the timings.

Space marks two captures, A and then B, then d compares them: A is the reference. Another mark replaces B. R \
recomputes each stage of one capture from its captured inputs, if its model is at hand, and says which one is wrong.
"""

NOTHING_FOUND = """\
No captures or models here yet.
Press 1 for Live and run a prompt: w writes the run as a capture, which appears here.
`aprtui trace -p TEXT` writes one from the command line.
`aprtui open FOLDER` looks somewhere else; a model file in this folder appears by itself.
`aprtui tour` finds a planted fault with you, in five minutes."""


HINTS = {
    ArtifactKind.CAPTURE: ("enter: its stages", "space: mark", "d: diff of A and B", "R: replay"),
    ArtifactKind.RECORDING: ("enter: its stages", "v: all its ops", "space: mark", "d: diff of A and B", "R: replay"),
    ArtifactKind.MODEL: ("enter: open it in Live", "v: its tensors"),
    ArtifactKind.PAIR: ("enter: compare again", "R: with a replay of both"),
    ArtifactKind.SESSION: ("enter: play it in Live",),
    ArtifactKind.CONVERSATION: ("enter: read it",),
    ArtifactKind.CONTRACT: ("enter: open it",),
}


class FilterInput(Input):
    """The filter of the table that had the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Keep"),
        Binding("escape", "screen.end_filter", "No filter"),
    ]


class CaptureGrid(StageGrid):
    """The stage grid of a capture: enter opens the stage under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "choose", "Open")]

    class Chosen(Message):
        """The stage under the cursor was chosen."""

    def action_choose(self) -> None:
        self.post_message(self.Chosen())


class BrowseScreen(ToolScreen):
    """Find captures and models, look into them, choose two for a comparison."""

    NAME = ScreenName.BROWSE
    EXPLANATION = EXPLANATION
    WIDGETS = (Table, CaptureGrid, StageGrid, TextStream)
    AUTO_FOCUS = "#artifacts"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark", id="browse.mark"),
        Binding("d", "compare", "Diff marked", id="browse.diff"),
        Binding("R", "replay", "Replay", id="browse.replay"),
        Binding("c", "cancel", "Cancel the replay", show=False, id="browse.cancel"),
        Binding("slash", "filter", "Filter", key_display="/", id="browse.filter"),
        Binding("x", "swap", "Swap A and B", show=False, id="browse.swap"),
        Binding("v", "turn_view", "Next view: preview, stage grid, statistics", show=False, id="browse.view"),
    ]
    HORIZONTAL_BREAKPOINTS = [(0, "-stacked"), (BROAD, "-broad"), (WIDE, "-wide")]  # noqa: RUF012  # as Textual does
    VERTICAL_BREAKPOINTS = [(0, "-low"), (HIGH, "-high")]  # noqa: RUF012
    DEFAULT_CSS = """
    BrowseScreen {
        #body { height: 1fr; }
        #artifacts { height: auto; min-height: 6; max-height: 36%; }
        #below { height: 1fr; }
        #preview { height: 14; max-height: 40%; }
        #contents { height: 1fr; }
        .-absent { display: none; }
        #grid { height: auto; max-height: 50%; }
        #stages, #tensors, #conversation { height: 1fr; }
        #filter { border: none; height: 1; padding: 0 1; background: $panel; display: none; }
    }
    BrowseScreen.-low #artifacts { max-height: 8; }
    BrowseScreen.-low.-stacked {
        #preview { height: 100%; max-height: 100%; display: none; }
        #contents { height: 100%; }
        #grid { max-height: 100%; height: 1fr; }
        &.-of-preview #preview { display: block; }
        &.-of-preview #contents, &.-of-grid #stages, &.-of-numbers #grid { display: none; }
    }
    BrowseScreen.-broad, BrowseScreen.-wide {
        #below { layout: horizontal; }
        #preview { width: 40; height: 100%; max-height: 100%; }
        #contents { width: 1fr; height: 100%; }
    }
    BrowseScreen.-wide #preview { width: 64; }
    BrowseScreen.-alone {
        #preview { width: 1fr; height: 100%; max-height: 100%; display: block; }
        #contents { display: none; }
    }
    """

    class Listed(Message):
        def __init__(self, listing: Listing) -> None:
            super().__init__()
            self.listing = listing

    class ContentsRead(Message):
        """What is in a capture or a model, as far as it has been read; or why it cannot be opened."""

        def __init__(self, artifact: Artifact, contents: Contents | None, problem: str = "") -> None:
            super().__init__()
            self.artifact, self.contents, self.problem = artifact, contents, problem

    class ModelFound(Message):
        """The model that a capture can be replayed with; None where none is at hand."""

        def __init__(self, artifact: Artifact, model: Path | None) -> None:
            super().__init__()
            self.artifact, self.model = artifact, model

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        self._replay = Replay()
        self._looking_for: Artifact | None = None
        """The capture whose model is being looked for, to replay it."""
        given = state.path("path")
        self._given = given
        self._roots = (given,) if given is not None else (*session.paths, Path())
        self._listing = Listing()
        self._searched = False
        self._path_to_show: Path | None = state.path("at") or given
        self._stage_to_show = Node(state.number("layer"), state.text("stage")) if state.text("stage") else None
        self._marks = {letter: Path(state.text(letter)) for letter in "ab" if state.text(letter)}
        fields = {"artifacts": "filter", "stages": "stages", "tensors": "tensors"}
        self._filters = {table: state.text(field) for table, field in fields.items()}
        self._filtered = "artifacts"
        self._artifact: Artifact | None = None
        self._contents: Contents | None = None
        self._problem = ""
        self._reported_problems: frozenset[str] = frozenset()

    def compose_body(self) -> Iterable[Widget]:
        with Container(id="body"):
            yield Table(ARTIFACT_COLUMNS, "Looking…", id="artifacts")
            with Container(id="below"):
                yield Lines(id="preview", classes="pane")
                with Container(id="contents"):
                    yield CaptureGrid(id="grid")
                    yield Table(STAGE_COLUMNS, id="stages")
                    yield Table(TENSOR_COLUMNS, id="tensors")
                    yield TextStream(id="conversation", classes="pane")
        yield FilterInput(placeholder="show what contains this", id="filter")

    def on_mount(self) -> None:
        self.add_class("-of-preview")
        self.query_one("#grid").add_class("pane")
        self._show_contents()
        self.detail(short_path(self._roots[0], Path.cwd()))
        self.set_interval(SECONDS_BETWEEN_POLLS, self._poll_replay)
        self._watch()

    def on_unmount(self) -> None:
        self._replay.cancel()

    def captures(self) -> tuple[Path, ...]:
        """The marked captures, else the one under the cursor."""
        artifact = self._artifact
        if len(self._marks) == 2:
            return self._marks["a"], self._marks["b"]
        if artifact is not None and artifact.kind is ArtifactKind.PAIR:
            return artifact.key
        return (artifact.path,) if artifact is not None and artifact.is_capture else ()

    @work(thread=True, group="watch")
    def _watch(self) -> None:
        worker, finder, last = get_current_worker(), Finder(), None
        elsewhere: tuple[FoundModel, ...] = ()
        next_look = time.monotonic()
        while not worker.is_cancelled:
            if self.is_current or last is None:
                # What lies here is listed at once; other places may hold thousands of folders.
                if last is not None and self._given is None and time.monotonic() >= next_look:
                    elsewhere = models_elsewhere(self.program.config)
                    next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS_ELSEWHERE
                roots = (*self._roots, *recent_paths())
                listing = finder.search(roots, recent_pairs(), lambda: worker.is_cancelled, elsewhere)
                if listing != last and not worker.is_cancelled:
                    self.post_message(self.Listed(listing))
                    last = listing
            time.sleep(SECONDS_BETWEEN_LOOKS)

    @work(thread=True, group="contents", exclusive=True)
    def _read(self, artifact: Artifact) -> None:
        worker = get_current_worker()
        try:
            for contents in read_contents(artifact, lambda: worker.is_cancelled):
                if worker.is_cancelled:
                    return
                self.post_message(self.ContentsRead(artifact, contents))
        except (AprtuiError, OSError) as error:
            self.post_message(self.ContentsRead(artifact, None, str(error)))

    @work(thread=True, group="model", exclusive=True)
    def _find_model(self, artifact: Artifact) -> None:
        """Look for the model of a capture among the files at hand: a file of gigabytes may have to be hashed."""
        worker = get_current_worker()
        model: Path | None = None
        try:
            wanted = Capture.open(artifact.path, copied=True).model
        except AprtuiError:
            wanted = None
        if wanted is not None:
            files = models_at_hand(*self.session.paths, artifact.path.parent)
            caches = partial(models_in_caches, self.program.config)
            model = next(iter(find_models(wanted, files, lambda: worker.is_cancelled, caches)), None)
        if not worker.is_cancelled:
            self.post_message(self.ModelFound(artifact, model))

    def on_browse_screen_model_found(self, message: ModelFound) -> None:
        artifact = message.artifact
        if artifact != self._looking_for:
            return
        self._looking_for = None
        if message.model is None:
            name = artifact.model or "its manifest names none"
            words = f"no model at hand ({name}): put the model file into this folder, or open it once"
            self._judged(artifact.path, RecordedVerdict(None, words, (), time.time()))
        else:
            self._replay.start(ReplayRequest(artifact.path, message.model))
        self._show_preview()

    def _poll_replay(self) -> None:
        capture = self._replay.capture
        if capture is None:
            return
        before = self._replay.progress
        judgement = self._replay.poll()
        if judgement is not None:
            self._judged(capture, judgement)
        if judgement is not None or self._replay.progress != before:
            self._show_preview()

    def _judged(self, capture: Path, judgement: RecordedVerdict) -> None:
        self.session.judgements[capture.absolute(),] = judgement

    def _judgement(self, artifact: Artifact) -> RecordedVerdict | None:
        """How the artifact was judged, unless it has changed since."""
        found = self.session.judgements.get(tuple(path.absolute() for path in artifact.key))
        return found if found is not None and artifact.modified < found.time else None

    def on_browse_screen_listed(self, message: Listed) -> None:
        """Show what was found; an artifact that has changed is read again."""
        self._listing, self._searched = message.listing.keeping(self._listing, self._under_cursor()), True
        table = self._table("artifacts")
        if table.empty != NOTHING_FOUND:
            table.empty = NOTHING_FOUND
            table.refresh(layout=True)
        self._show_list()
        self._say_focused()
        problems = (*message.listing.problems, *filter(None, [message.listing.left_out]))
        for problem in problems:
            if problem not in self._reported_problems:
                self.notify(problem, severity="warning")
        self._reported_problems = frozenset(problems)

    def on_browse_screen_contents_read(self, message: ContentsRead) -> None:
        if message.artifact == self._artifact:
            self._contents, self._problem = message.contents, message.problem
            self._show_contents()

    def state(self) -> ScreenState:
        artifact = self._artifact
        node = self._node if isinstance(self._contents, CaptureContents) else None
        return screen_state(
            self.NAME, path=self._given, at=None if artifact is None else as_typed(artifact.path),
            layer=None if node is None else node.layer, stage=None if node is None else node.stage, **self._marks,
            filter=self._filters["artifacts"], stages=self._filters["stages"], tensors=self._filters["tensors"],
        )  # fmt: skip

    def command(self) -> Sequence[str]:
        """The comparison of the marked captures, else the statistics of what is under the cursor."""
        captures = self.captures()
        if len(captures) == 2:
            return ["aprtui", "diff", *map(as_typed, captures)]
        if self._artifact is None:
            return []
        judgement = self._judgement(self._artifact)
        if judgement is not None and judgement.command and self.focused is self._table("artifacts"):
            return judgement.command
        if self._artifact.kind is ArtifactKind.CONTRACT:
            return ["aprtui", "contracts", "status", as_typed(self._artifact.path)]
        if self._artifact.kind is ArtifactKind.CONVERSATION:
            return []
        if self._artifact.kind is ArtifactKind.SESSION:
            path = self._artifact.path
            return ["aprtui", "render", as_typed(path), "--svg", f"{path.stem}.svg"]
        words = ["aprtui", "stats", as_typed(self._artifact.path)]
        node = self._node
        in_contents = isinstance(self._contents, CaptureContents) and self.focused is not self._table("artifacts")
        if in_contents and node is not None:
            words += ["--stage", node.stage]
            words += [] if node.layer is None else ["--layers", f"{node.layer}..{node.layer + 1}"]
        return words

    def on_table_pointed(self, message: Table.Pointed) -> None:
        """Show what is in the artifact under the cursor; the grid follows the table of its stages."""
        if message.table.id == "artifacts":
            self._leave_deleted()
            self._open_under_cursor()
        elif message.table is self.focused and isinstance(message.table.key, Node):
            self._stage_to_show = message.table.key
            self.query_one(CaptureGrid).put_cursor(message.table.key)
        self._say_focused()

    def on_table_chosen(self, message: Table.Chosen) -> None:
        if message.table.id == "artifacts":
            self._enter()
        else:
            self._open_tensor()

    def on_capture_grid_chosen(self) -> None:
        self._open_tensor()

    def on_stage_grid_pointed(self) -> None:
        node = self.query_one(CaptureGrid).node
        if self.focused is self.query_one(CaptureGrid) and node is not None:
            self._stage_to_show = node
            self._table("stages").point(node)
        self._say_focused()

    def on_descendant_focus(self) -> None:
        """Describe the pane that has the focus; the table of stages goes to the cursor of the grid."""
        self.on_stage_grid_pointed()

    def on_input_changed(self, message: Input.Changed) -> None:
        self._set_filter(message.value)

    def on_input_submitted(self) -> None:
        self._leave_filter()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a filter is typed, the keys of the screen are letters."""
        if action in ("mark", "compare", "filter", "swap", "replay", "cancel") and isinstance(self.focused, Input):
            return False
        return super().check_action(action, parameters)

    def action_mark(self) -> None:
        """Mark the capture under the cursor as A, or as B if there is an A; or remove its mark."""
        # What the cursor is on, not what is shown: keys may come faster than captures are opened.
        artifact = self._under_cursor()
        if artifact is None:
            return
        if not artifact.is_capture:
            self.notify("Only captures can be marked: `aprtui diff --weights` compares models.", severity="warning")
            return
        marked = [letter for letter, path in self._marks.items() if path == artifact.path]
        if marked:
            del self._marks[marked[0]]
        else:
            self._marks["b" if "a" in self._marks else "a"] = artifact.path
        self._show_list()
        self._table("artifacts").action_move(1)

    def action_swap(self) -> None:
        self._marks = {{"a": "b", "b": "a"}[letter]: path for letter, path in self._marks.items()}
        self._show_list()

    def action_compare(self) -> None:
        if len(self._marks) != 2:
            marked = len(self._marks)
            self.notify(f"Mark two captures with space, then press d: {marked} marked.", severity="warning")
            return
        self._open_pair(self._marks["a"], self._marks["b"])

    def action_replay(self) -> None:
        """Recompute each stage of the capture under the cursor from its captured inputs; of a pair, in Diff."""
        artifact = self._under_cursor()
        if artifact is None or artifact.problem:
            return
        if artifact.kind is ArtifactKind.PAIR:
            a, b = map(as_typed, artifact.key)
            self.program.open_state(screen_state(ScreenName.DIFF, a=a, b=b, judge="replay"))
        elif artifact.kind is ArtifactKind.RECORDING:
            self._replay.cancel()
            self._replay.start(ReplayRequest(artifact.path, None))
            self._show_preview()
        elif artifact.is_capture:
            self._replay.cancel()
            self._looking_for = artifact
            self._find_model(artifact)
            self._show_preview()
        else:
            self.notify("Captures can be replayed, with the model that they are of.", severity="warning")

    def action_cancel(self) -> None:
        self._looking_for = None
        self.workers.cancel_group(self, "model")
        self._replay.cancel()
        self._show_preview()

    def _open_pair(self, a: Path, b: Path) -> None:
        self.program.open_state(screen_state(ScreenName.DIFF, a=as_typed(a), b=as_typed(b)))

    def action_filter(self) -> None:
        """Type a filter for the focused table; with the grid focused, for the table of stages."""
        focused = self.focused.id if self.focused is not None else None
        panes = {"conversation": "artifacts", "artifacts": "artifacts", "tensors": "tensors"}
        self._filtered = panes.get(focused or "", "stages")
        box = self.query_one(FilterInput)
        box.display = True
        box.value = self._filters[self._filtered]
        if self._filtered == "stages":
            self._turn("-of-numbers")
        self.set_focus(box)

    def action_end_filter(self) -> None:
        self.query_one(FilterInput).value = ""
        self._set_filter("")
        self._leave_filter()

    def action_turn_view(self) -> None:
        """Grid or table of a capture, what is in another artifact; on small screens, of one view, the preview too."""
        artifact = self._artifact
        if artifact is None or not artifact.has_contents:
            return
        if self._one_view and self.has_class("-of-numbers"):
            self._turn("-of-preview")
            self.set_focus(self._table("artifacts"))
        elif not artifact.is_capture:
            self._turn("-of-numbers")
            self.set_focus(self._pane_of(artifact))
        else:
            seen = self.has_class("-of-grid") if self._one_view else self.focused is self._table("artifacts")
            to_grid = not seen and self.focused is not self.query_one(CaptureGrid)
            self._turn("-of-grid" if to_grid else "-of-numbers")
            if not self._one_view or self.focused is not self._table("artifacts"):
                self.set_focus(self.query_one(CaptureGrid) if to_grid else self._table("stages"))

    @property
    def _one_view(self) -> bool:
        """Whether the screen is so small that it shows one view of an artifact at a time."""
        return self.has_class("-low") and self.has_class("-stacked")

    @property
    def _shows_preview_alone(self) -> bool:
        return self._one_view and self.has_class("-of-preview")

    def action_back(self) -> None:
        """Return from the contents to the list, and from the list to the screen before."""
        if self.focused is not self._table("artifacts"):
            self.set_focus(self._table("artifacts"))
        else:
            super().action_back()

    def _table(self, name: str) -> Table:
        return self.query_one(f"#{name}", Table)

    @property
    def _conversation(self) -> TextStream:
        return self.query_one(TextStream)

    def _pane_of(self, artifact: Artifact) -> Widget:
        """Where what is in an artifact stands, of a capture its statistics."""
        if artifact.kind is ArtifactKind.CONVERSATION:
            return self._conversation
        return self._table("tensors" if artifact.is_model else "stages")

    @property
    def _node(self) -> Node | None:
        """The stage under the cursor of the contents."""
        if self.focused is self.query_one(CaptureGrid):
            return self.query_one(CaptureGrid).node
        key = self._table("stages").key
        return key if isinstance(key, Node) else None

    def _show_list(self) -> None:
        table, working = self._table("artifacts"), Path.cwd()
        now = time.time()
        rows = [artifact_row(artifact, self._marks, now, working) for artifact in self._listing.artifacts]
        there = [artifact.kind for artifact in self._listing.artifacts if not artifact.is_deleted]
        counts = {kind: there.count(kind) for kind in ArtifactKind}
        always = (ArtifactKind.CAPTURE, ArtifactKind.MODEL)
        title = ", ".join(counted(count, kind) for kind, count in counts.items() if count or kind in always)
        unread = len(self._listing.problems)
        title += f", {counted(unread, 'folder')} not readable" if unread else ""
        table.border_title = title if self._searched else "captures and models"
        table.show(_matching(rows, self._filters["artifacts"]))
        if self._path_to_show is not None:
            wanted, self._path_to_show = self._path_to_show, None
            for artifact in self._listing.artifacts:
                if artifact.other is None and artifact.path.absolute() == wanted.absolute():
                    table.point(artifact.key)
                    remember(artifact.path)
        self._open_under_cursor()

    def _leave_deleted(self) -> None:
        """A deleted artifact leaves the list when the cursor leaves it."""
        key = self._table("artifacts").key
        left = tuple(found for found in self._listing.artifacts if not found.is_deleted or found.key == key)
        if left != self._listing.artifacts:
            self._listing = replace(self._listing, artifacts=left)
            self._show_list()

    def _under_cursor(self) -> Artifact | None:
        key = self._table("artifacts").key
        return next((artifact for artifact in self._listing.artifacts if artifact.key == key), None)

    def _open_under_cursor(self) -> None:
        """Read what is in the artifact under the cursor, unless it is already shown or being read."""
        artifact = self._under_cursor()
        if artifact == self._artifact:
            return
        if artifact is None or self._artifact is None or artifact.key != self._artifact.key:
            self._contents = None
        self._artifact, self._problem = artifact, "" if artifact is None else artifact.problem
        self.workers.cancel_group(self, "contents")
        if artifact is not None and not artifact.problem and artifact.has_contents:
            self._read(artifact)
        self._show_contents()

    def _show_contents(self) -> None:
        contents, stages, tensors = self._contents, self._table("stages"), self._table("tensors")
        grid = self.query_one(CaptureGrid)
        artifact, conversation = self._artifact, self._conversation
        shown = stages if artifact is None else self._pane_of(artifact)
        self.set_class(artifact is not None and not artifact.has_contents, "-alone")
        has_layers = isinstance(contents, CaptureContents) and contents.capture.graph.layers > 0
        grid.set_class(not has_layers, "-absent")
        for pane in (stages, tensors, conversation):
            pane.set_class(pane is not shown, "-absent")
        name = "" if artifact is None else artifact.path.absolute().name
        if isinstance(shown, Table):
            self._title(shown, name)
        match contents:
            case CaptureContents(capture=capture, entries=entries, others=others):
                rows = [*stage_rows(capture, entries), *node_rows(others)]
                stages.show(_matching(rows, self._filters["stages"]))
                if grid.graph is not capture.graph:
                    grid.open_graph(capture.graph)
                    if self._stage_to_show is not None:
                        stages.point(self._stage_to_show)
                        grid.put_cursor(self._stage_to_show)
                stats = grid_stats(capture.graph, entries)
                grid.show(figures_of(Statistic.RMS, stats), first_bad(capture.graph, stats))
                grid.border_title = f"{name}: rms of each stage, v: all statistics"
            case ModelContents(tensors=infos, summaries=summaries):
                rows = [tensor_row(info, summaries.get(info.name)) for info in infos]
                tensors.show(_matching(rows, self._filters["tensors"]))
            case ConversationContents(trace=trace):
                conversation.border_title = f"{name}: conversation"
                conversation.border_subtitle = timing_words(trace)
                show_conversation(conversation, trace)
            case None:
                conversation.empty = self._problem or "Reading…"
                conversation.border_title = f"{name}: conversation"
                conversation.border_subtitle = ""
                conversation.clear()
                stages.show(())
                tensors.show(())
        self._show_preview()
        self._say_focused()

    def on_screen_resume(self) -> None:
        """A pair may have been judged in the meantime."""
        if self._artifact is not None:
            self._show_preview()

    def on_lines_resized(self) -> None:
        self._show_preview()

    def _replay_lines(self, artifact: Artifact) -> list[tuple[str, str, Ink]]:
        """How far the replay of an artifact is, else how it was judged and by which command."""
        if artifact == self._looking_for:
            return [("replay", "looking for its model, c cancels", Ink.ACCENT)]
        if artifact.is_capture and artifact.path == self._replay.capture:
            return [("replay", f"{self._replay.progress}; c cancels", Ink.ACCENT)]
        judgement = self._judgement(artifact)
        return [] if judgement is None else judgement_lines(judgement)

    def _show_preview(self) -> None:
        pane, artifact = self.query_one("#preview", Lines), self._artifact
        names = [] if artifact is None else [path.absolute().name for path in artifact.key]
        pane.border_title = " ↔ ".join(names) or "preview"
        if artifact is None:
            pane.show([])
            return
        replay = self._replay_lines(artifact)
        if replay and not pane.size:
            # Small screens show the preview or what is in the capture.
            self.say(": ".join(replay[0][:2]))
        more = [*replay, *remarks(self._contents)]
        pane.show(preview_lines(artifact, self._marks, more, HINTS[artifact.kind], pane.size.width))

    def _title(self, table: Table, name: str) -> None:
        """The title of the table of contents, and its text where it has no rows."""
        what = "tensors" if table.id == "tensors" else "statistics of each stage"
        table.border_title = f"{name}: {what}" if name else "contents"
        if self._problem:
            table.empty = self._problem
        elif self._artifact is None:
            table.empty = "What is in a capture or a model stands here." if self._listing.artifacts else ""
        else:
            table.empty = "Nothing matches the filter." if self._contents is not None else "Reading…"

    def _say_focused(self) -> None:
        contents = self._contents
        focused = self.focused.id if self.focused is not None else "artifacts"
        listed = self._table("stages").key
        if focused == "stages" and isinstance(contents, CaptureContents) and isinstance(listed, ListedNode):
            self.say(node_words(listed, contents.others.get(listed)))
        elif focused in ("stages", "grid") and isinstance(contents, CaptureContents) and self._node is not None:
            has_stage = self._node in contents.capture.graph.order
            missing = f"layer {self._node.layer} has no {self._node.stage}"
            self.say(stage_words(self._node, contents.entries.get(self._node)) if has_stage else missing)
        elif focused == "tensors" and isinstance(contents, ModelContents):
            name = self._table("tensors").key
            info = next((info for info in contents.tensors if info.name == name), None)
            self.say("" if info is None else tensor_words(info, contents.summaries.get(info.name)))
        elif self._artifact is not None:
            warnings = contents.capture.warnings if isinstance(contents, CaptureContents) else ()
            self.say(artifact_words(self._artifact, warnings))
        else:
            self.say("nothing found yet" if not self._searched else "no captures or models here")

    def _turn(self, view: str) -> None:
        for each in ("-of-preview", "-of-grid", "-of-numbers"):
            self.set_class(view == each, each)

    def _set_filter(self, text: str) -> None:
        self._filters[self._filtered] = text
        if self._filtered == "artifacts":
            self._show_list()
        else:
            self._show_contents()

    def _leave_filter(self) -> None:
        self.query_one(FilterInput).display = False
        self.set_focus(self._table(self._filtered))

    def _enter(self) -> None:
        artifact = self._artifact
        if artifact is None or self._problem:
            return
        if artifact.kind is ArtifactKind.PAIR:
            self._open_pair(*artifact.key)
        elif artifact.kind is ArtifactKind.CONTRACT:
            self.program.open_state(screen_state(ScreenName.CONTRACTS, path=as_typed(artifact.path)))
        elif artifact.is_model:
            self.program.open_state(screen_state(ScreenName.LIVE, model=as_typed(artifact.path)))
        elif artifact.kind is ArtifactKind.SESSION:
            self.program.open_state(screen_state(ScreenName.LIVE, recording=as_typed(artifact.path)))
        else:
            remember(artifact.path)
            if self._shows_preview_alone:
                self._turn("-of-grid" if artifact.is_capture else "-of-numbers")
            of_numbers = self.has_class("-of-numbers") or not artifact.is_capture
            self.set_focus(self._pane_of(artifact) if of_numbers else self.query_one(CaptureGrid))

    def _open_tensor(self) -> None:
        if self._artifact is None:
            return
        place, node, listed = as_typed(self._artifact.path), self._node, self._table("stages").key
        if isinstance(self._contents, ModelContents):
            self.program.open_state(screen_state(ScreenName.TENSOR, model=place, tensor=self._table("tensors").key))
        elif isinstance(listed, ListedNode) and self.focused is self._table("stages"):
            number = f"{listed.graph}.{listed.index}"
            self.program.open_state(screen_state(ScreenName.TENSOR, capture=place, node=number))
        elif isinstance(self._contents, CaptureContents) and node is not None:
            if node in self._contents.capture.graph.order:
                fields = {"capture": place, "layer": node.layer, "stage": node.stage}
                self.program.open_state(screen_state(ScreenName.TENSOR, **fields))
            else:
                self.notify(f"Layer {node.layer} has no {node.stage}.", severity="warning")


def show_conversation(stream: TextStream, trace: AgentTrace) -> None:
    """Show what was said, from the beginning, each speaker named; what failed or was blocked stands out."""
    stream.clear(speakers=True)
    for entry in trace.entries:
        look = "failed" if entry.failed else "token" if entry.speaker is Speaker.MODEL else "prompt"
        stream.say(entry.text.rstrip("\n"), entry.speaker, look)
    stream.to_beginning()


def _matching(rows: Sequence[Row], text: str) -> list[Row]:
    """The rows whose cells contain every word of `text`; case does not matter."""
    words = text.lower().split()
    return [row for row in rows if all(word in " ".join(row.cells).lower() for word in words)]
