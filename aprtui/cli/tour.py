"""`aprtui tour`: a planted fault, found with the keys of the app; or the same as commands to type."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from aprtui.build import DOCUMENTATION
from aprtui.errors import EngineError, ExitCode


@click.command()
@click.option("--text", "as_text", is_flag=True, help="Print the commands that do the same, without the app.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII characters alone.")
def command(as_text: bool, ascii_only: bool) -> int:
    """Find the first wrong number yourself: a tour through the app, in five minutes.

    Two captures of the embedded model are written to a temporary folder, one of them with a fault. Lines below the
    tabs say what to do next and which key does it. Every step can be skipped, and the tour be left at any time;
    nothing of it remains.

    Without a terminal, or with --text, prints the steps as commands to type.
    """
    from aprtui.cli.open import on_terminal

    if as_text or not on_terminal():
        click.echo("\n".join(_text()))
        return ExitCode.PASS
    import tempfile

    from aprtui.cli.progress import ProgressLine
    from aprtui.tui.tour.app import run_tour
    from aprtui.tui.tour.captures import write_captures

    try:
        temporary = tempfile.TemporaryDirectory(prefix="aprtui-tour-", ignore_cleanup_errors=True)
    except OSError as error:
        problem = error.strerror or str(error)
        raise EngineError(f"tour: {problem}: set TMPDIR to one that can be written") from error
    with temporary as name:
        folder = Path(name).resolve()
        with ProgressLine() as progress:
            write_captures(folder, progress)
        return run_tour(folder, ascii_only=ascii_only)


def _text() -> Iterator[str]:
    """The tour line by line."""
    from aprtui.tui.tour.steps import OWN_ENGINES, STEPS

    yield "The tour as commands. Type them in an empty folder; `aprtui tour` on a terminal does the same with keys."
    for number, step in enumerate((step for step in STEPS if step.commands), 1):
        yield ""
        yield from textwrap.wrap(step.plain, 78, initial_indent=f"{number}. ", subsequent_indent="   ")
        yield from (f"     {line}" for line in step.commands)
    yield f"\nNow on your own engine; the pages that are named are at {DOCUMENTATION}:"
    for engine in OWN_ENGINES:
        yield f"\n{engine.name}, as {engine.page} has it:"
        yield from (f"     {line}" for line in engine.lines)
