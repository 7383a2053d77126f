"""Keys in turn: each key finds the app as the keys before it have left it.

Textual hands a key to the widget that has the focus when the key comes. What the key before has set off (a cursor, a
focus, a screen that is being built) may still be under way then, and keys that come faster than that, as over a slow
line, would act on what was there before.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TypeVar

from textual.app import App
from textual.dom import DOMNode
from textual.events import Event, InputEvent, Key, Paste

Result = TypeVar("Result")

PATIENCE = 2.0
"""Seconds after which a key is taken although the one before is not done: the keyboard never dies."""

_LOOK = 0.05


class KeysInTurnApp(App[Result]):
    """An app that takes a key, or a pasted text, only when the one before it is done with."""

    def __init__(self, *, ansi_color: bool | None = None) -> None:
        super().__init__(ansi_color=ansi_color)
        self._waiting: deque[Event] = deque()
        self._turn: asyncio.Task[None] | None = None

    async def on_event(self, event: Event) -> None:
        if isinstance(event, InputEvent) and not self.screen_stack:
            return  # the app ends
        if not isinstance(event, Key | Paste) or event.is_forwarded:
            await super().on_event(event)
            return
        self._waiting.append(event)
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._take_keys())

    async def keys_taken(self) -> None:
        """Wait until every key that has been sent is done with."""
        await _passed(self)
        if self._turn is not None:
            await self._turn

    async def _take_keys(self) -> None:
        try:
            while self._waiting and self.is_running and self.screen_stack:
                event = self._waiting.popleft()
                target = self.focused or self.screen
                await super().on_event(event)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._done_with(target), PATIENCE)
        except Exception as error:  # noqa: BLE001 - as of any exception in a message of the app
            self._handle_exception(error)

    async def _done_with(self, target: DOMNode) -> None:
        """Wait until a key that `target` was given has gone up to the app, and what it set off is done."""
        await _passed(target)
        screen = None
        while self.screen_stack and screen is not self.screen:
            screen = self.screen
            await _passed(screen)  # one that is new has been built then, and has its focus
            await _passed(screen.focused or screen)


async def _passed(node: DOMNode) -> None:
    """Wait until the messages that are queued now have been handled from `node` up."""
    for each in node.ancestors_with_self:
        reached = asyncio.Event()
        if each.call_later(each.call_next, reached.set):
            while not reached.is_set() and each.is_attached and each.is_running:
                with suppress(TimeoutError):
                    await asyncio.wait_for(reached.wait(), _LOOK)
