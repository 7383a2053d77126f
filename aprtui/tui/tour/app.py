"""The app with the tour in it: it looks at what is shown, and goes on when a step is done."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.widget import Widget

from aprtui.config import Config
from aprtui.errors import ExitCode
from aprtui.resources import embedded_model
from aprtui.tui.app import SCREENS, AprtuiApp, run_app
from aprtui.tui.frame.commands import TOUR_BINDINGS
from aprtui.tui.frame.keymap import first_key
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.tour.own_engine import OwnEngineScreen
from aprtui.tui.tour.steps import END, FAULTY, PROMPT, REFERENCE, STEPS, TourStep, TourView
from aprtui.tui.tour.strip import TourStrip

LOOKS_PER_SECOND = 10


class TourApp(AprtuiApp):
    """The tour through `folder`, which holds its captures. Keys of the screens keep their meaning; none is taken."""

    BINDINGS: ClassVar[list[BindingType]] = [*TOUR_BINDINGS]

    def __init__(self, session: Session, state: ScreenState, config: Config, *, folder: Path) -> None:
        super().__init__(replace(session, remembers=False), state, config)
        self._folder = folder
        self._number = 0
        self._begun: TourView | None = None
        """What was shown when the step began; None until it can."""
        self._is_over = False

    @property
    def step(self) -> TourStep | None:
        """What is to be done; None when all is."""
        return STEPS[self._number] if self._number < len(STEPS) else None

    def on_mount(self) -> None:  # Textual calls that of the base as well
        self.set_interval(1 / LOOKS_PER_SECOND, self._look)

    def guide(self) -> Iterable[Widget]:
        return () if self._is_over else (TourStrip(self._words(None)),)

    def action_go(self, name: str) -> None:
        if name == ScreenName.BROWSE and ScreenName.BROWSE not in self._screens:
            self.open_state(screen_state(ScreenName.BROWSE, path=self._folder))  # rather than what is lying around
        else:
            super().action_go(name)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not (self._is_over and action in ("skip_step", "end_tour")) and super().check_action(action, parameters)

    def action_skip_step(self) -> None:
        """Leave a step out; what later ones need is opened."""
        step = self.step
        if step is None:
            self.push_screen(OwnEngineScreen())
            return
        self._go_on()
        state = step.skipped_to(self._folder)
        if state is not None and state.fields:
            self.open_state(state)
        elif state is not None:
            self.action_go(state.screen)

    def action_end_tour(self) -> None:
        self._is_over = True
        for screen in self._screens.values():
            screen.query(TourStrip).remove()
        self.notify("The tour is over. Its captures are there until you quit.")

    def _go_on(self) -> None:
        self._number, self._begun = self._number + 1, None

    def _look(self) -> None:
        """Go on if the step is done; nothing counts while a screen is being built."""
        screen = next((each for each in reversed(self.screen_stack) if isinstance(each, ToolScreen)), None)
        if self._is_over or screen is None or not screen.is_mounted or screen.is_replaced:
            return
        view, step = self._view(screen), self.step
        if step is not None and self._begun is None and step.ready(view):
            self._begun = view
        if step is not None and self._begun is not None and step.done(view, self._begun):
            self._go_on()
        for strip in screen.query(TourStrip):
            strip.show(self._words(screen.NAME))

    def _view(self, screen: ToolScreen) -> TourView:
        pair = tuple((self._folder / name).absolute() for name in (REFERENCE, FAULTY))
        judged = self.session.judgements.get(pair)
        return TourView(
            screen.NAME,
            screen.state().fields,
            "" if self.screen is screen else type(self.screen).__name__,
            self.clipboard,
            () if judged is None else judged.command,
        )

    def _words(self, shown: ScreenName | None) -> Text:
        """What stands in the strip on the screen that is `shown`."""
        step = self.step
        where = f"Tour {self._number + 1} of {len(STEPS)}" if step is not None else "Tour: the end"
        text = Text.assemble((f" {where} ", "bold reverse"))
        text.append(self._with_keys("   {tour.skip} skips this step" if step is not None else ""))
        text.append(self._with_keys("   {tour.end} ends the tour\n"))
        text.append(self._with_keys(END if step is None else step.text))
        if step is not None and step.screen is not None and shown not in (None, step.screen):
            text.append(self._with_keys(f" (On the {step.screen.capitalize()} screen: {{go.{step.screen}}}.)"))
        return text

    def _with_keys(self, text: str) -> Text:
        """`text` with the keys that are bound now in place of the ids in it."""
        words = Text()
        for part in re.split(r"(\{[a-z.]+\})", text):
            is_key = part.startswith("{")
            words.append(self._key(part[1:-1]) if is_key else part, "bold" if is_key else "")
        return words

    def _key(self, name: str) -> str:
        bindings = [binding for kind in SCREENS.values() for binding in kind.all_bindings()]
        chords = [chord for kind in SCREENS.values() for chord in kind.CHORDS]
        return first_key(name, [*bindings, *TOUR_BINDINGS], chords, self.config.keys, self.config.ascii)


def run_tour(folder: Path, *, ascii_only: bool = False) -> ExitCode:
    """Open the app on the tour through the captures in `folder`. Raises what `run_app` does."""
    state = screen_state(ScreenName.LIVE, model=embedded_model(), prompt=PROMPT, chat="off")
    return run_app(state, paths=(folder,), ascii_only=ascii_only, make=partial(TourApp, folder=folder))
