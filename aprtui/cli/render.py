"""`aprtui render`: a picture of a recorded session."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from aprtui.cli.options import PATH, file_names
from aprtui.errors import UsageError

if TYPE_CHECKING:
    from aprtui.tui.frame.state import ScreenState

_SMALLEST, _LARGEST = (20, 8), (500, 200)


@click.command()
@click.argument("what", metavar="FILE | STATE", shell_complete=file_names)
@click.option("--at", type=click.IntRange(1), metavar="N", help="The token to show, from 1; the last by default.")
@click.option("--svg", type=PATH, metavar="OUT", required=True, help="Where to write the picture; - for stdout.")
@click.option("--size", default="120x40", show_default=True, metavar="CxR", help="Columns and rows of the screen.")
@click.option("--theme", type=click.Choice(["dark", "light"]), default="dark", show_default=True)
def command(what: str, at: int | None, svg: Path, size: str, theme: str) -> None:
    """Draw the live screen of a recorded session (`run --record FILE`), without its model and without a terminal.

    A STATE is what Y copies on that screen: it says which stage, statistic and view are shown.
    """
    columns, rows = _parsed_size(size)
    path, tokens, state = _recording_and_state(what, at)
    from aprtui.trace.export.output import write_text
    from aprtui.tui.render import drawn_recording

    signal.signal(signal.SIGINT, _interrupted)
    text = drawn_recording(state, path, tokens, (columns, rows), light=theme == "light")
    if str(svg) == "-":
        sys.stdout.write(text)
        return
    write_text(svg, text)


def _interrupted(*_: object) -> NoReturn:
    """A handler of ours, because asyncio takes the place of Python's own: it cancels a task, and the app goes on."""
    raise KeyboardInterrupt


def _parsed_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text, re.ASCII)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(least <= side <= most for least, side, most in zip(_SMALLEST, size, _LARGEST, strict=True)):
        raise UsageError(f"--size: {text!r:.40}: expected columns and rows, from 20x8 to 500x200, such as 120x40")
    return size


def _recording_and_state(what: str, at: int | None) -> tuple[Path, int, ScreenState]:
    """The recording that is meant, how many of its tokens are played, and the state to draw.

    Raises `UsageError`, `UnreadableError`.
    """
    from aprtui.engine.sessions.session_file import session_summary
    from aprtui.tui.frame.state import ScreenName, ScreenState, is_state, parse_state

    state = parse_state(what) if is_state(what) else ScreenState(ScreenName.LIVE, {"recording": what})
    path = state.path("recording")
    if state.screen is not ScreenName.LIVE or path is None:
        raise UsageError(f"{what}: names no recorded session: give what `aprtui run --record` wrote, or a state of it")
    tokens = session_summary(path).tokens
    wanted = state.number("token")
    played = at or (tokens if wanted is None else wanted + 1)
    if not tokens:
        raise UsageError(f"{path}: has no token to show: record a run that generates some")
    if not 1 <= played <= tokens:
        raise UsageError(f"{what}: token {played} is not in {path}: use --at 1 … {tokens}")
    fields = {name: text for name, text in state.fields.items() if name != "token"}
    return path, played, ScreenState(state.screen, fields)
