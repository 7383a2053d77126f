"""`aprtui open`: show a model, a capture, a stage file, a contract, an agent trace, two captures, the results of a
sweep, a screen as it was.

And `aprtui` without a command: the live view, or a streamed completion where there is no terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.options import file_names
from aprtui.errors import EngineError, UsageError

if TYPE_CHECKING:
    from aprtui.tui.frame.state import ScreenState

PROMPT = "def fib(n):"


@click.command()
@click.argument("what", nargs=-1, metavar="[PATH [PATH] | STATE]", shell_complete=file_names)
@click.option("-p", "--prompt", help="What to say to a model first.")
@click.option(
    "--chat/--no-chat", default=None, help="Prompts through the model's chat template, as is usual where it has one."
)
@click.option("--system", metavar="TEXT", help="The system message of a chat.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII alone.")
def command(what: tuple[str, ...], prompt: str | None, chat: bool | None, system: str | None, ascii_only: bool) -> int:
    """Open the app on a model, a capture, a stage file, a contract, an agent trace, two captures (side by side), the
    results of a sweep, or a screen's state.

    A state is what Y copies on any screen: aprtui:diff?a=good&b=bad. Without anything, opens the captures and models in
    the working directory.
    """
    from aprtui.trace.address import is_address

    elsewhere = next(filter(is_address, what), None)
    if elsewhere is not None:
        raise UsageError(f"{elsewhere}: the app shows what is on this machine: copy it here, or use stats and diff")
    said = {"prompt": prompt, "chat": None if chat is None else "on" if chat else "off", "system": system}
    with ExitStack() as stack:
        shown = tuple(_readable(_with_path_of_model(text), stack) for text in what)
        state = _initial_state(shown, {name: text for name, text in said.items() if text is not None})
        if not on_terminal():
            raise EngineError("open: needs a terminal: use diff, stats, replay or run, which need none")
        from aprtui.tui.app import run_app
        from aprtui.tui.frame.state import ScreenName

        paths = () if state.screen is ScreenName.LIVE else tuple(Path(text) for text in shown if Path(text).exists())
        return run_app(state, paths=paths, ascii_only=ascii_only)


def _readable(text: str, stack: ExitStack) -> str:
    """What is to be opened in place of `text`: a capture of another tool is read as one of ours, until the app ends."""
    from aprtui.trace.capture import is_capture

    path = Path(text)
    if is_capture(path):
        return text
    from aprtui.cli.comparison.options import announce
    from aprtui.cli.progress import ProgressLine
    from aprtui.importing.formats.registry import format_of
    from aprtui.importing.importer import as_capture

    if format_of(path) is None:
        return text
    progress = stack.enter_context(ProgressLine())
    return str(stack.enter_context(as_capture(path, lambda: None, announce, progress)))


def _with_path_of_model(text: str) -> str:
    """The path of the model that is called `text`, where that is neither a path nor a state."""
    from aprtui.model.discovery.naming import named_model
    from aprtui.tui.frame.state import is_state

    if Path(text).exists() or is_state(text):
        return text
    return str(named_model(text) or text)


def _initial_state(what: tuple[str, ...], said: Mapping[str, str]) -> ScreenState:
    """The screen to open; what is `said` is for a model."""
    state = _state_of(what)
    if not said:
        return state
    from aprtui.tui.frame.state import ScreenName, ScreenState, is_state

    if state.screen is not ScreenName.LIVE or is_state(what[0]) or state.path("recording"):
        raise UsageError("open: -p, --chat and --system are for a model: name one, and no screen's state")
    return ScreenState(state.screen, {**state.fields, **said})


def _state_of(what: tuple[str, ...]) -> ScreenState:
    from aprtui.sweep.results import is_sweep
    from aprtui.trace.agent_trace import is_agent_trace, read_agent_trace
    from aprtui.trace.aprt import is_aprt
    from aprtui.trace.archive import is_folder
    from aprtui.tui.frame.state import ScreenName, ScreenState, is_state, parse_state, screen_state

    if len(what) == 1 and is_state(what[0]):
        return parse_state(what[0])
    if len(what) > 2:
        raise UsageError(f"open: {len(what)} paths: expected a model, a stage file, a state, or one or two captures")
    for text in what:
        if not Path(text).exists():
            raise UsageError(
                f"{text}: does not exist: expected a model (or its name, see aprtui models), a capture, a stage file "
                "or a state"
            )
    if len(what) == 2:
        return screen_state(ScreenName.DIFF, a=what[0], b=what[1])
    if not what:
        return ScreenState(ScreenName.BROWSE)
    path = Path(what[0])
    if is_sweep(path):
        return screen_state(ScreenName.SWEEP, path=path)
    if is_folder(path):
        return screen_state(ScreenName.BROWSE, path=path)
    if is_aprt(path):
        return screen_state(ScreenName.TENSOR, path=path)
    if path.suffix in (".yaml", ".yml"):
        return screen_state(ScreenName.CONTRACTS, path=path)
    from aprtui.engine.sessions.session_file import SessionFile, is_session

    if is_session(path):
        SessionFile(path).close()  # a damaged one is told here
        return screen_state(ScreenName.LIVE, recording=path)
    if is_agent_trace(path):
        read_agent_trace(path)  # a damaged one is told here
        return screen_state(ScreenName.BROWSE, path=path)
    return screen_state(ScreenName.LIVE, model=path)


def open_live() -> int:
    """Open the live view on the embedded model; off a terminal, stream a completion to stdout and say so."""
    if on_terminal():
        from aprtui.tui.app import run_app
        from aprtui.tui.frame.state import ScreenName, screen_state

        return run_app(screen_state(ScreenName.LIVE, prompt=PROMPT, chat="off"))
    from aprtui.cli.run import command

    click.echo(f"aprtui: no terminal for the live view, streaming a completion of {PROMPT!r} instead", err=True)
    click.echo(PROMPT, nl=False)
    command.main(["--prompt", PROMPT], standalone_mode=False)
    return 0


def on_terminal() -> bool:
    """Whether a person sits before it, who can press keys."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
