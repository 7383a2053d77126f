"""The model that captures were made with: which of the files at hand it is, and a dialog where that is not certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from aprtui.model.lookup import Places, find_models
from aprtui.model.open_file import SUFFIXES
from aprtui.model.split_files import first_part, parts_there
from aprtui.progress import Cancelled
from aprtui.trace.manifest import ModelInfo
from aprtui.tui.draw.numbers import size_text
from aprtui.tui.draw.text import as_typed, short_path
from aprtui.tui.frame.key_line import KeyLine
from aprtui.tui.screens.diff.pair import Sides
from aprtui.tui.widgets.table import Column, Row, Table, Tone


@dataclass(frozen=True, slots=True)
class ModelSearch:
    """What captures say of their model, and which of the `files` at hand it may be.

    `stated` are the models that the sides name, each once; `matching` are files of the one model that both are of;
    `by_digest` says that both sides state the bytes of the model, and not just its name.
    """

    stated: tuple[ModelInfo, ...] = ()
    files: tuple[Path, ...] = ()
    matching: tuple[Path, ...] = ()
    by_digest: bool = False

    @property
    def only(self) -> Path | None:
        """The one file that fits."""
        return self.matching[0] if len(self.matching) == 1 else None

    @property
    def proven(self) -> Path | None:
        """The file whose bytes both sides state: a name alone does not tell one quantisation from another."""
        return self.only if self.by_digest else None

    @property
    def words(self) -> str:
        """What is known of the model, and why it has to be chosen."""
        if len(self.stated) > 1:
            names = " and ".join(_stated_words(info) for info in self.stated)
            return f"A and B are of different models, {names}: aprtui diff takes --model-a and --model-b"
        if not self.stated:
            return "the captures do not say which model they are of"
        found = f"{len(self.matching)} files have that name" if self.matching else "no file at hand is that model"
        return f"the captures are of {_stated_words(self.stated[0])}: {found}"


def _stated_words(info: ModelInfo) -> str:
    kind = f" {info.quantization}" if info.quantization else ""
    return f"{info.name}{kind}{f', sha256 {info.sha256[:12]}…' if info.sha256 else ''}"


def search_models(
    sides: Sides, files: Sequence[Path], cancelled: Cancelled = lambda: False, elsewhere: Places = tuple
) -> ModelSearch:
    """The model of both sides among `files`, else `elsewhere`.

    A side that says nothing of its model is taken to be of the other's.
    """
    models = [None if side is None else side.model for side in (sides.a, sides.b)]
    stated: list[ModelInfo] = []
    for model in sorted(filter(None, models), key=lambda model: model.sha256 is None):
        if not any(_is_same(model, info) for info in stated):
            stated.append(model)
    matching = find_models(stated[0], files, cancelled, elsewhere) if len(stated) == 1 else ()
    by_digest = len(stated) == 1 and all(model is not None and model.sha256 is not None for model in models)
    return ModelSearch(tuple(stated), tuple(files), matching, by_digest)


def _is_same(model: ModelInfo, other: ModelInfo) -> bool:
    if model.sha256 is not None and other.sha256 is not None:
        return model.sha256 == other.sha256
    return model.name == other.name


@dataclass(frozen=True, slots=True)
class TypedPath:
    """The row of the path as it is typed."""


COLUMNS = (
    Column("model", grows=True), Column("size", right=True), Column("folder", grows=True, rank=1, end_matters=True),
)  # fmt: skip


def model_rows(search: ModelSearch, typed: str) -> list[Row]:
    """Files with all words that are `typed`, those that fit first; model files of a folder that is typed; the path."""
    words = typed.lower().split()
    files = [*search.matching, *(path for path in search.files if path not in search.matching)]
    found = [path for path in files if all(word in str(path).lower() for word in words)]
    folder = Path(typed).expanduser()
    if typed and folder.is_dir():
        models = dict.fromkeys(map(first_part, (path for path in folder.iterdir() if path.suffix in SUFFIXES)))
        found += sorted(path for path in models if path.absolute() not in found)
    rows = [
        Row(path, (path.name, _size_text(path), short_path(path.parent, Path.cwd())), _tone(path, search))
        for path in found
    ]
    return [*rows, Row(TypedPath(), (typed or "another file: type its path above", "", ""), Tone.MUTED)]


def _tone(path: Path, search: ModelSearch) -> Tone:
    return Tone.MARKED if path in search.matching else Tone.PLAIN


def _size_text(path: Path) -> str:
    try:
        return size_text(sum(part.stat().st_size for part in parts_there(path)))
    except OSError:
        return "gone"


class ModelDialog(ModalScreen[Path | None]):
    """Returns the model file that was chosen, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Replay with it", priority=True),
        Binding("escape", "leave", "Leave", priority=True),
        Binding("up", "move(-1)", "Up", show=False, priority=True),
        Binding("down", "move(1)", "Down", show=False, priority=True),
    ]
    DEFAULT_CSS = """
    ModelDialog { align: center middle; }
    ModelDialog > Vertical { width: 110; max-width: 100%; height: auto; max-height: 1fr; }
    ModelDialog {
        Static { height: auto; color: $text-muted; margin-bottom: 1; }
        Input, Input:focus { border: none; height: 1; padding: 0; background: $panel; margin-bottom: 1; }
        #models { height: auto; max-height: 16; border: none; padding: 0; }
        #models .table--resting { color: $background; background: $accent; text-style: bold; }
        #models:nocolor .table--resting { text-style: reverse bold; }
        #problem { color: $error; margin: 0; display: none; }
    }
    """

    def __init__(self, search: ModelSearch) -> None:
        super().__init__()
        self._search = search

    def compose(self) -> ComposeResult:
        with Vertical(classes="pane") as box:
            box.border_title = "Replay with which model?"
            yield Static(self._search.words, markup=False)
            yield Input(placeholder="type to filter, or the path of a GGUF file")
            table = Table(COLUMNS, id="models")
            table.remove_class("pane")
            table.can_focus = False
            yield table
            yield Static(id="problem", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self._show_rows("")
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._show_rows(event.value)

    def on_table_chosen(self) -> None:
        self.action_choose()

    def action_move(self, rows: int) -> None:
        self.query_one(Table).action_move(rows)

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_choose(self) -> None:
        key = self.query_one(Table).key
        typed = self.query_one(Input).value.strip()
        path = key if isinstance(key, Path) else Path(typed).expanduser()
        problem = self.query_one("#problem", Static)
        if typed or isinstance(key, Path):
            if path.is_file():
                self.dismiss(path)
                return
            problem.update(f"{as_typed(path)}: is no file: type the path of a GGUF model")
        else:
            problem.update("Type the path of a GGUF model above.")
        problem.display = True

    def _show_rows(self, typed: str) -> None:
        self.query_one("#problem", Static).display = False
        table = self.query_one(Table)
        table.show(model_rows(self._search, typed.strip()))
        # Rather than on a file that is known not to be the model.
        table.action_move_to(0 if typed or self._search.matching or not self._search.stated else -1)
