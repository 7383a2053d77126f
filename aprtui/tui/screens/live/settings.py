"""The settings of a run: sampling, engine and faults as texts that a person edits, and the dialog for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

from aprtui.engine.backends.registry import backend_choices
from aprtui.engine.process.messages import EngineSettings
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import Sampling
from aprtui.errors import UsageError


@dataclass(frozen=True, slots=True)
class FormField:
    """One line of the form: its name, a hint at what may be entered, and the options where there are only a few."""

    name: str
    hint: str
    options: tuple[str, ...] = ()


SAMPLING_FIELDS = (
    FormField("temperature", "0 takes the likeliest token"),
    FormField("top-k", "0 keeps all tokens"),
    FormField("top-p", "1 keeps all"),
    FormField("min-p", "0 keeps all"),
    FormField("repeat penalty", "1 is none"),
    FormField("seed", "a whole number"),
)
ENGINE_FIELDS = (
    FormField("mode", "", tuple(Mode)),
    FormField("backend", "", backend_choices()),
    FormField("K/V cache", "", tuple(KvType)),
    FormField("fault", "layer=1,stage=ffn_gate,kind=scale,magnitude=0.5"),
)


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """How tokens are chosen, and by which engine."""

    sampling: Sampling
    engine: EngineSettings


def form_texts(settings: LiveSettings) -> dict[str, str]:
    sampling, engine = settings.sampling, settings.engine
    return {
        "temperature": f"{sampling.temperature:g}",
        "top-k": str(sampling.top_k),
        "top-p": f"{sampling.top_p:g}",
        "min-p": f"{sampling.min_p:g}",
        "repeat penalty": f"{sampling.repeat_penalty:g}",
        "seed": str(sampling.seed),
        "mode": str(engine.mode),
        "backend": engine.backend,
        "K/V cache": str(engine.kv),
        "fault": " ".join(engine.faults),
    }


def parse_form(texts: Mapping[str, str], before: LiveSettings) -> LiveSettings:
    """The settings that the texts ask for; what the form does not have stays as in `before`. Raises `UsageError`.

    Faults are separated by blanks; the engine checks whether the model can have them.
    """
    sampling = replace(
        before.sampling,
        temperature=_decimal(texts, "temperature"),
        top_k=_whole(texts, "top-k"),
        top_p=_decimal(texts, "top-p"),
        min_p=_decimal(texts, "min-p"),
        repeat_penalty=_decimal(texts, "repeat penalty"),
        seed=_whole(texts, "seed"),
    )
    engine = replace(
        before.engine,
        mode=Mode(texts["mode"]),
        backend=texts["backend"],
        kv=KvType(texts["K/V cache"]),
        faults=tuple(texts["fault"].split()),
    )
    return LiveSettings(sampling, engine)


def _decimal(texts: Mapping[str, str], name: str) -> float:
    try:
        return float(texts[name])
    except ValueError:
        raise UsageError(f"{name} is {texts[name]!r}: expected a number") from None


def _whole(texts: Mapping[str, str], name: str) -> int:
    text = texts[name].strip()
    if not text.isdecimal() or len(text) > 18:
        raise UsageError(f"{name} is {texts[name]!r}: expected a whole number, 0 or larger")
    return int(text)


NOTE = "Other sampling starts the prompt again; another engine or fault opens the model again first."


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
        """All values, the chosen one marked."""
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
        """Begin in the line that the caller named."""
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
        self.dismiss(None)

    def _line(self, field: FormField) -> ComposeResult:
        with Horizontal(classes="line"):
            yield Label(field.name)
            text = self._texts[field.name]
            if field.options:
                yield OptionInput(field.options, text, id=_id(field.name))
            else:
                wide = field.name == "fault"
                yield Input(text, placeholder=field.hint if wide else "", id=_id(field.name), select_on_focus=False)
                if not wide:
                    yield Label(field.hint, classes="hint")

    def _value(self, name: str) -> str:
        widget = self.query_one(f"#{_id(name)}")
        assert isinstance(widget, Input | OptionInput)
        return widget.value


def _id(name: str) -> str:
    return name.replace(" ", "-").replace("/", "-").lower()
