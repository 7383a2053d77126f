"""The app: themes, the way in, and the way out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import ClassVar

import platformdirs
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from aprtui.engine.backends import default_threads
from aprtui.engine.process import EngineProcess, EngineState
from aprtui.engine.process_child import open_model
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import Sampling
from aprtui.errors import EngineError, ExitCode
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
from aprtui.tui.help import shown_keys
from aprtui.tui.live import LiveScreen
from aprtui.tui.palette import THEME
from aprtui.tui.source import LiveSource


class LiveApp(App[ExitCode]):
    """Opens on the live screen."""

    TITLE = "aprtui"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", "Interrupt", show=False, priority=True),
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, source: LiveSource, prompt: str = "", sampling: Sampling | None = None) -> None:
        # Without colour (no-color.org), Textual would still send greys unless the terminal's own colours are used.
        super().__init__(ansi_color=True if os.environ.get("NO_COLOR") else None)
        self._source = source
        self._live = LiveScreen(source, prompt, sampling)

    def on_mount(self) -> None:
        """Show the live screen."""
        self.register_theme(THEME)
        self.theme = THEME.name
        self.push_screen(self._live)

    async def action_quit(self) -> None:
        """Leave; a generation that is going on ends."""
        self.exit(ExitCode.ENGINE if self._source.state is EngineState.CRASHED else ExitCode.PASS)

    @property
    def failure(self) -> str:
        """What the engine last failed with; empty while all is well."""
        return self._live.failure

    def action_interrupt(self) -> None:
        """Ctrl-C."""
        self.exit(ExitCode.INTERRUPTED)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Textual's own commands, and the keys of the screen."""
        yield from super().get_system_commands(screen)
        if isinstance(screen, LiveScreen):
            for binding in screen.BINDINGS:
                if isinstance(binding, Binding):
                    run = partial(screen.run_action, binding.action)
                    yield SystemCommand(binding.description, f"Keys: {shown_keys(binding)}", run)


def run_live(
    model_path: Path | None,
    prompt: str,
    *,
    mode: Mode = Mode.Q8,
    backend: str = "auto",
    kv: KvType = KvType.F32,
    threads: int | None = None,
    context: int | None = None,
    sampling: Sampling | None = None,
) -> ExitCode:
    """Open the live screen on `model_path` (None: the embedded model) and generate from `prompt` at once.

    Without `threads`, one core is left to the screen; without `sampling`, the model's recommended temperature is used.
    Raises `UnreadableError` before the screen opens where the file cannot be used, and `EngineError` after it where the
    engine had crashed and was not started anew.
    """
    path = model_path or embedded_model()
    load_model(path)
    threads = threads or max(1, default_threads() - 1)
    opener = partial(
        open_model, path=path,
        backend=backend, mode=mode, kv=kv, threads=threads, context=context,
    )  # fmt: skip
    source = EngineProcess(opener, _log_file())
    app = LiveApp(source, prompt, sampling)
    try:
        code = app.run() or ExitCode.PASS
    finally:
        source.close()
    if code is ExitCode.ENGINE:
        raise EngineError(app.failure)
    return code


def _log_file() -> Path | None:
    """Where the engine process writes what it prints; nowhere where the user's log folder cannot be written."""
    try:
        folder = platformdirs.user_log_path("aprtui", ensure_exists=True)
    except OSError:
        return None
    return folder / "engine.log" if os.access(folder, os.W_OK) else None
