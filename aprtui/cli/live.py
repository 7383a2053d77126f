"""`aprtui` without a command: the live view, or a streamed completion where there is no terminal."""

from __future__ import annotations

import sys

import click

PROMPT = "def fib(n):"


def open_live() -> int:
    """Open the live view on the embedded model; off a terminal, stream a completion to stdout and say so."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        from aprtui.tui.app import run_app
        from aprtui.tui.frame.state import ScreenName, screen_state

        return run_app(screen_state(ScreenName.LIVE, prompt=PROMPT))
    from aprtui.cli.run import command

    click.echo(f"aprtui: no terminal for the live view, streaming a completion of {PROMPT!r} instead", err=True)
    click.echo(PROMPT, nl=False)
    command.main(["--prompt", PROMPT], standalone_mode=False)
    return 0
