"""The base of what stands over a screen while it waits for keys, at the lower border."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from textual.events import Key
from textual.screen import ModalScreen

Result = TypeVar("Result")


class KeyOverlay(ModalScreen[Result | None]):
    """Takes keys for one action; any other key leaves with None, and is no command of the screen below."""

    DEFAULT_CSS = """
    KeyOverlay { align: left bottom; background: transparent; }
    KeyOverlay > Static {
        width: 100%; height: auto; max-height: 60%; background: $panel; color: $foreground; padding: 0 1;
    }
    """

    def __init__(self, action: str, keys: Iterable[str]) -> None:
        super().__init__()
        for key in keys:
            self._bindings.bind(key, f"{action}('{key}')", show=False, priority=True)
        self._bindings.bind("escape", "leave", show=False, priority=True)

    def action_leave(self) -> None:
        self.dismiss(None)

    def on_key(self, event: Key) -> None:
        """Leave."""
        event.stop()
        event.prevent_default()
        self.dismiss(None)
