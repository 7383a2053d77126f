"""How the turns of a run are shown: in the text beside the grid, and as the prompt that the model really gets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from aprtui.model.prompt import ChatPrompt
from aprtui.tui.draw.signals import TintSignal, tint
from aprtui.tui.frame.key_line import KeyLine
from aprtui.tui.screens.live.run import LiveRun, Turn
from aprtui.tui.widgets.text_stream import TextStream, printable


def show_turns(stream: TextStream, run: LiveRun, signal: TintSignal) -> None:
    """Show every turn of a conversation, each speaker named; of a text that is continued all that the model was given.

    The tokens of the answer that goes on follow by themselves.
    """
    stream.clear(speakers=run.is_chat)
    latest = run.turns[-1].request
    if isinstance(latest, ChatPrompt) and latest.system:
        stream.say(latest.system, "system")
    for turn in run.turns:
        if isinstance(turn.request, ChatPrompt):
            stream.say(turn.said, "user")
            stream.say("", "model")
        else:
            stream.say(turn.prompt)
        if not turn.tokens:
            stream.say(turn.answer)  # of a conversation that was opened from a state
        for token, text in zip(turn.tokens, turn.pieces, strict=False):
            stream.add(text, tint(signal, token, run.noise))


def rendered_parts(turn: Turn, run: LiveRun) -> Iterator[tuple[str, bool]]:
    """The prompt of a turn in parts: a text, and whether it is a special token."""
    rest = turn.prompt
    for name in (run.names[token] for token in turn.ids if token in run.special):
        before, found, after = rest.partition(name)
        if not found:
            break
        if before:
            yield before, False
        yield name, True
        rest = after
    if rest:
        yield rest, False


class RenderedPromptScreen(ModalScreen[None]):
    """The prompt as the model gets it: the template's text with its special tokens, which stand out."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,P,q", "leave", "Back", priority=True),
        Binding("j,down", "move(1)", "Down", priority=True),
        Binding("k,up", "move(-1)", "Up", priority=True),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"rendered-prompt-screen--special", "rendered-prompt-screen--break"}
    DEFAULT_CSS = """
    RenderedPromptScreen {
        align: center middle;
        .rendered-prompt-screen--special { color: $background; background: $accent; text-style: bold; }
        .rendered-prompt-screen--break { color: $text-disabled; }
    }
    RenderedPromptScreen > VerticalScroll { width: 100; max-width: 100%; height: auto; max-height: 100%; }
    """

    def __init__(self, turn: Turn, run: LiveRun) -> None:
        super().__init__()
        self._parts = list(rendered_parts(turn, run))
        special = sum(token in run.special for token in turn.ids)
        self._title = f"the prompt as the model gets it: {len(turn.ids)} tokens, {special} of them special"

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="pane") as box:
            box.border_title = self._title
            box.border_subtitle = "⏎ is a line break; escape closes"
            yield Static()
        yield KeyLine()

    def on_mount(self) -> None:
        special, breaks = (self._style(name) for name in ("special", "break"))
        text = Text()
        for part, is_special in self._parts:
            if is_special:
                text.append(part, special)
                continue
            lines = printable(part).split("\n")
            for line in lines[:-1]:
                text.append(line).append("⏎\n", breaks)
            text.append(lines[-1])
        self.query_one(Static).update(text)

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"rendered-prompt-screen--{name}")

    def action_move(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def action_leave(self) -> None:
        self.dismiss()
