"""The prompt of the live screen: a text of several lines that enter sends, and the user's own editor for it."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, cast

from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual.binding import Binding, BindingType
from textual.events import Key, Paste
from textual.keys import Keys
from textual.message import Message
from textual.widgets import TextArea

from aprtui.errors import UsageError

HINT = "enter sends; ctrl+j or alt+enter: new line (shift+enter in some)"
"""Most terminals send shift+enter as enter."""

# Alt+enter, and shift+enter of xterm: Textual takes both for enter. They make a line as ctrl+j does.
cast("dict[str, tuple[Keys, ...]]", ANSI_SEQUENCES_KEYS).update(
    {"\x1b\r": (Keys.ControlJ,), "\x1b[27;2;13~": (Keys.ControlJ,)}
)


class PromptEditor(TextArea):
    """A prompt; it grows with its lines, and recalls those that were sent before."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send"),
        Binding("ctrl+j,alt+enter", "new_line", "New line"),
        Binding("ctrl+o", "open_editor", "$EDITOR"),
        Binding("escape", "screen.back", "Back to the grid"),
        Binding("up", "cursor_up", "Line above, or the prompt before", show=False),
        Binding("down", "cursor_down", "Line below, or the prompt after", show=False),
    ]
    DEFAULT_CSS = """
    PromptEditor, PromptEditor:focus {
        height: auto; max-height: 6; border: none; padding: 0; background: $panel; scrollbar-size-vertical: 1;
    }
    """

    class Sent(Message):
        """The text is to be sent."""

    class EditorWanted(Message):
        """The text is to be opened in the user's editor."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text, placeholder=HINT, highlight_cursor_line=False, compact=True)
        self._sent: list[str] = []
        self._recalled = 0
        """Which of the prompts that were sent is shown; their count for the draft."""
        self._draft = ""

    def on_mount(self) -> None:
        self.move_cursor(self.document.end)

    def remember(self, text: str) -> None:
        """Add a prompt that was sent to those that can be recalled."""
        if text and text not in self._sent[-1:]:
            self._sent.append(text)
        self._recalled = len(self._sent)

    def put(self, text: str) -> None:
        """Show `text` with the cursor at its end."""
        self.load_text(text)
        self.move_cursor(self.document.end)

    def action_send(self) -> None:
        self.post_message(self.Sent())

    def action_new_line(self) -> None:
        self._replace_via_keyboard("\n", *self.selection)

    def action_open_editor(self) -> None:
        self.post_message(self.EditorWanted())

    def action_cursor_up(self, select: bool = False) -> None:
        if select or self._row > 0 or not self._recalled:
            super().action_cursor_up(select)
        else:
            self._recall(self._recalled - 1)

    def action_cursor_down(self, select: bool = False) -> None:
        if select or self._row < self.wrapped_document.height - 1 or self._recalled == len(self._sent):
            super().action_cursor_down(select)
        else:
            self._recall(self._recalled + 1)

    @property
    def _row(self) -> int:
        """The row that the cursor is in; a long line has several."""
        return self.wrapped_document.location_to_offset(self.cursor_location).y

    def _recall(self, number: int) -> None:
        if self._recalled == len(self._sent):
            self._draft = self.text
        self._recalled = number
        self.put(self._draft if number == len(self._sent) else self._sent[number])

    async def _on_key(self, event: Key) -> None:
        """Enter and its like in the order in which they were typed: bindings overtake letters, or fall behind them."""
        if event.key in ("enter", "ctrl+j", "shift+enter", "alt+enter"):
            event.stop()
            event.prevent_default()
            self.action_send() if event.key == "enter" else self.action_new_line()

    async def _on_paste(self, event: Paste) -> None:
        """Terminals paste line breaks as returns."""
        event.prevent_default()
        await super()._on_paste(Paste(event.text.replace("\r\n", "\n").replace("\r", "\n")))


def edit(text: str, given_away: Callable[[], AbstractContextManager[None]]) -> str:
    """`text` as the user's editor leaves it, which has the terminal while that is `given_away`. Raises `UsageError`."""
    command = os.environ.get("EDITOR", "").strip()
    if not command:
        raise UsageError("EDITOR is not set: set it to the editor that you want, as in EDITOR=vi")
    with tempfile.TemporaryDirectory(prefix="aprtui-") as folder:
        path = Path(folder) / "prompt.txt"
        path.write_text(text, encoding="utf-8")
        with given_away():
            problem = _run_editor(command, path)  # an exception in here would not give the terminal back
        if problem:
            raise UsageError(f"EDITOR={command} {problem}")
        edited = path.read_text(encoding="utf-8", errors="replace")
    # Editors end the last line of a file.
    return edited if text.endswith("\n") else edited.removesuffix("\n")


def _run_editor(command: str, path: Path) -> str:
    """What went wrong; empty where nothing did."""
    try:
        code = subprocess.run([*shlex.split(command), str(path)], check=False).returncode
    except (OSError, ValueError) as error:  # shlex finds no closing quote
        return f"cannot be used: {error}: set it to an editor"
    if code or not path.is_file():
        return f"ended with exit code {code}: the prompt stays as it was"
    return ""
