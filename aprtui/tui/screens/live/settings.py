"""The settings of a run: sampling, engine and faults as texts that a person edits, and the dialog for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rich.segment import Segment
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import Click
from textual.reactive import reactive
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, Label, Static

from aprtui.engine.backends.registry import backend_choices
from aprtui.engine.process.messages import EngineSettings
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import Sampling
from aprtui.errors import UsageError
from aprtui.tui.frame.key_line import KeyLine
from aprtui.tui.screens.live.faults import FaultDialog, FaultPlace


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """How tokens are chosen, by which engine, and after which system message of a conversation."""

    sampling: Sampling
    engine: EngineSettings
    system: str = ""


def _decimal(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name} is {text!r}: expected a number") from None


def _whole(name: str, text: str) -> int:
    digits = text.strip()
    if not digits.isdecimal() or len(digits) > 18:
        raise UsageError(f"{name} is {text!r}: expected a whole number, 0 or larger")
    return int(digits)


@dataclass(frozen=True, slots=True)
class FormField:
    """One line of the form: an attribute of `Sampling` or `EngineSettings`, and how its text is parsed.

    `hint` says what may be entered; `options` are given where there are only a few.
    """

    name: str
    attribute: str
    parse: Callable[[str, str], Any]
    """Takes the name and the text. Raises `UsageError`; `ValueError` for a text that is no option."""
    hint: str = ""
    options: tuple[str, ...] = ()


SAMPLING_FIELDS = (
    FormField("temperature", "temperature", _decimal, "0 takes the likeliest token"),
    FormField("top-k", "top_k", _whole, "0 keeps all tokens"),
    FormField("top-p", "top_p", _decimal, "1 keeps all"),
    FormField("min-p", "min_p", _decimal, "0 keeps all"),
    FormField("repeat penalty", "repeat_penalty", _decimal, "1 is none"),
    FormField("seed", "seed", _whole, "a whole number"),
)
ENGINE_FIELDS = (
    FormField("mode", "mode", lambda _, text: Mode(text), options=tuple(Mode)),
    FormField("backend", "backend", lambda _, text: text, options=backend_choices()),
    FormField("K/V cache", "kv", lambda _, text: KvType(text), options=tuple(KvType)),
    FormField(
        "fault", "faults", lambda _, text: tuple(text.split()), "layer=1,stage=ffn_gate,kind=scale,magnitude=0.5"
    ),
)
CHAT_FIELDS = (
    FormField(
        "system prompt", "system", lambda _, text: text.replace(NEWLINE, "\n"), "what the model is told before a chat"
    ),
)
WIDE = ("fault", "system prompt")


def form_texts(settings: LiveSettings) -> dict[str, str]:
    parts = ((settings.sampling, SAMPLING_FIELDS), (settings.engine, ENGINE_FIELDS), (settings, CHAT_FIELDS))
    return {field.name: _text(getattr(part, field.attribute)) for part, fields in parts for field in fields}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value).replace("\n", NEWLINE)


def parse_form(texts: Mapping[str, str], before: LiveSettings) -> LiveSettings:
    """The settings that the texts ask for; what the form does not have stays as in `before`. Raises `UsageError`.

    Faults are separated by blanks; the engine checks whether the model can have them.
    """
    sampling, engine, chat = (
        {field.attribute: field.parse(field.name, texts[field.name]) for field in fields}
        for fields in (SAMPLING_FIELDS, ENGINE_FIELDS, CHAT_FIELDS)
    )
    return LiveSettings(replace(before.sampling, **sampling), replace(before.engine, **engine), **chat)


NEWLINE = "⏎"
"""Stands for a line break in a field of one line."""

NOTE = "What is changed starts the prompt again; another engine or fault opens the model again first."


class OptionInput(Widget, can_focus=True):
    """One of a few values; the left and right keys take another."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "turn(-1)", "Value before", show=False),
        Binding("right,space", "turn(1)", "Next value", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"option-input--chosen"}
    DEFAULT_CSS = """
    OptionInput {
        height: 1; width: 1fr; color: $text-muted;
        .option-input--chosen { color: $accent; text-style: bold reverse; }
        &:focus { background: $boost; }
    }
    """

    value: reactive[str] = reactive("")

    def __init__(self, values: Sequence[str], value: str, *, id: str) -> None:
        super().__init__(id=id)
        self._values = list(values)
        self.value = value if value in values else values[0]

    def render_line(self, y: int) -> Strip:
        base, chosen = self.rich_style, self.get_component_rich_style("option-input--chosen")
        segments = [Segment(f" {value} ", chosen if value == self.value else base) for value in self._values]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def action_turn(self, by: int) -> None:
        self.value = self._values[(self._values.index(self.value) + by) % len(self._values)]

    def on_click(self, event: Click) -> None:
        at = 0
        for value in self._values:
            at += len(value) + 2
            if event.x < at:
                self.value = value
                return


class LiveSettingsScreen(ModalScreen[LiveSettings | None]):
    """Returns the settings that were entered, or None if nothing is to change."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "apply", "Use", priority=True),
        Binding("escape", "leave", "Leave as it is", priority=True),
        Binding("ctrl+f", "pick_fault", "Faults from a list", priority=True),
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
        #fault, #system-prompt { width: 1fr; }
        #problem { color: $error; text-style: bold; height: auto; display: none; }
        #note { color: $text-muted; height: auto; }
        #engine, #chat { margin-top: 1; height: auto; }
        #sampling { height: auto; }
    }
    """

    def __init__(self, settings: LiveSettings, place: FaultPlace | None = None) -> None:
        """Without a `place`, there is no list of faults."""
        super().__init__()
        self._place = place
        self._settings = settings
        self._texts = form_texts(settings)

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="pane", can_focus=False) as box:
            box.border_title = "Settings"
            box.border_subtitle = "enter uses them, escape leaves all as it is"
            for title, name, fields in (
                ("Sampling", "sampling", SAMPLING_FIELDS), ("Engine", "engine", ENGINE_FIELDS),
                ("Conversation", "chat", CHAT_FIELDS),
            ):  # fmt: skip
                with Vertical(id=name):
                    yield Label(title, classes="heading")
                    for field in fields:
                        yield from self._line(field)
            yield Static(NOTE, id="note")
            yield Static(id="problem", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one("#temperature").focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "pick_fault" or self._place is not None

    def action_apply(self) -> None:
        fields = [field.name for field in (*SAMPLING_FIELDS, *ENGINE_FIELDS, *CHAT_FIELDS)]
        try:
            settings = parse_form({name: self._value(name) for name in fields}, self._settings)
        except UsageError as error:
            problem = self.query_one("#problem", Static)
            problem.update(str(error))
            problem.display = True
        else:
            self.dismiss(settings)

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_pick_fault(self) -> None:
        assert self._place is not None
        box = self.query_one("#fault", Input)

        def take(faults: tuple[str, ...] | None) -> None:
            if faults is not None:
                box.value = " ".join(faults)

        self.app.push_screen(FaultDialog(self._place, box.value.split()), take)

    def _line(self, field: FormField) -> ComposeResult:
        with Horizontal(classes="line"):
            yield Label(field.name)
            text = self._texts[field.name]
            if field.options:
                yield OptionInput(field.options, text, id=_id(field.name))
            else:
                wide = field.name in WIDE
                yield Input(text, placeholder=field.hint if wide else "", id=_id(field.name), select_on_focus=False)
                if not wide:
                    yield Label(field.hint, classes="hint")

    def _value(self, name: str) -> str:
        widget = self.query_one(f"#{_id(name)}")
        assert isinstance(widget, Input | OptionInput)
        return widget.value


def _id(name: str) -> str:
    return name.replace(" ", "-").replace("/", "-").lower()
