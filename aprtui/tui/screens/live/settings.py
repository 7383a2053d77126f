"""The dialog for sampling, engine and faults of the live screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import Click
from textual.reactive import reactive
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Footer, Input, Label, Static

from aprtui.errors import UsageError
from aprtui.tui.screens.live.settings_form import (
    ENGINE_FIELDS,
    SAMPLING_FIELDS,
    Field,
    LiveSettings,
    form_texts,
    parse_form,
)

NOTE = "Other sampling starts the prompt again; another engine or fault opens the model anew first."


class Choice(Widget, can_focus=True):
    """One of a few values; left and right take the next one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "turn(-1)", "Value before", show=False),
        Binding("right,space", "turn(1)", "Next value", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"choice--chosen"}
    DEFAULT_CSS = """
    Choice { height: 1; width: 1fr; color: $text-muted; .choice--chosen { color: $accent; text-style: bold reverse; } }
    Choice:focus { background: $boost; }
    """

    value: reactive[str] = reactive("")

    def __init__(self, values: Sequence[str], value: str, *, id: str) -> None:
        super().__init__(id=id)
        self._values = list(values)
        self.value = value if value in values else values[0]

    def render_line(self, y: int) -> Strip:
        """All values, the chosen one marked."""
        base, chosen = self.rich_style, self.get_component_rich_style("choice--chosen")
        segments = [Segment(f" {value} ", chosen if value == self.value else base) for value in self._values]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def action_turn(self, by: int) -> None:
        """Take another value."""
        self.value = self._values[(self._values.index(self.value) + by) % len(self._values)]

    def on_click(self, event: Click) -> None:
        """Take the value under the mouse."""
        at = 0
        for value in self._values:
            at += len(value) + 2
            if event.x < at:
                self.value = value
                return


class LiveSettingsScreen(ModalScreen[LiveSettings | None]):
    """Gives the settings that were asked for, or None where they were left as they are."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "apply", "Use", priority=True),
        Binding("escape", "leave", "Leave as it is", priority=True),
        Binding("down,tab", "app.focus_next", "Next line", priority=True),
        Binding("up,shift+tab", "app.focus_previous", "Line before", priority=True),
    ]
    DEFAULT_CSS = """
    LiveSettingsScreen { align: center middle; }
    LiveSettingsScreen > VerticalScroll { width: 76; max-width: 100%; height: auto; max-height: 100%; }
    LiveSettingsScreen {
        .line { height: 1; }
        .line > Label { width: 16; color: $foreground; }
        .line > .hint { width: auto; color: $text-muted; padding: 0 1; }
        .heading { color: $accent; text-style: bold; height: 1; }
        Input { border: none; height: 1; padding: 0; width: 12; background: $panel; }
        Input:focus { border: none; background: $boost; }
        #fault { width: 1fr; }
        #problem { color: $error; text-style: bold; height: auto; display: none; }
        #note { color: $text-muted; height: auto; }
        #engine { margin-top: 1; height: auto; }
        #sampling { height: auto; }
    }
    """

    def __init__(self, settings: LiveSettings, focused: str = "temperature") -> None:
        super().__init__()
        self._settings = settings
        self._texts = form_texts(settings)
        self._first = focused

    def compose(self) -> ComposeResult:
        """Sampling above, the engine below."""
        with VerticalScroll(classes="pane", can_focus=False) as box:
            box.border_title = "Settings"
            box.border_subtitle = "enter uses them, escape leaves all as it is"
            for title, name, fields in (
                ("Sampling", "sampling", SAMPLING_FIELDS), ("Engine", "engine", ENGINE_FIELDS)
            ):  # fmt: skip
                with Vertical(id=name):
                    yield Label(title, classes="heading")
                    for field in fields:
                        yield from self._line(field)
            yield Static(NOTE, id="note")
            yield Static(id="problem", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin in the line that was asked for."""
        self.query_one(f"#{_id(self._first)}").focus()

    def action_apply(self) -> None:
        """Use what was entered, if it makes sense."""
        fields = [field.name for field in (*SAMPLING_FIELDS, *ENGINE_FIELDS)]
        try:
            settings = parse_form({name: self._value(name) for name in fields}, self._settings)
        except UsageError as error:
            problem = self.query_one("#problem", Static)
            problem.update(str(error))
            problem.display = True
        else:
            self.dismiss(settings)

    def action_leave(self) -> None:
        """Change nothing."""
        self.dismiss(None)

    def _line(self, field: Field) -> ComposeResult:
        with Horizontal(classes="line"):
            yield Label(field.name)
            text = self._texts[field.name]
            if field.choices:
                yield Choice(field.choices, text, id=_id(field.name))
            else:
                wide = field.name == "fault"
                yield Input(text, placeholder=field.hint if wide else "", id=_id(field.name), select_on_focus=False)
                if not wide:
                    yield Label(field.hint, classes="hint")

    def _value(self, name: str) -> str:
        widget = self.query_one(f"#{_id(name)}")
        assert isinstance(widget, Input | Choice)
        return widget.value


def _id(name: str) -> str:
    return name.replace(" ", "-").replace("/", "-").lower()
