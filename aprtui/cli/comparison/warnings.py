"""Warnings about captures and stage files, on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aprtui.compare.wording import counted

if TYPE_CHECKING:
    from aprtui.trace.aprt import AprtFile
    from aprtui.trace.capture import Capture


def warn_about(capture: Capture) -> None:
    """Print the warnings of a capture on stderr, and the files in its folder that are not its own."""
    for warning in capture.warnings:
        click.echo(f"aprtui: {warning}", err=True)
    for path in capture.stale:
        click.echo(f"aprtui: {path}: stale: not this capture's own file, not read", err=True)


def warn_about_trailing(file: AprtFile) -> None:
    """Say on stderr that a stage file holds more than it declares."""
    if file.trailing:
        extra = counted(file.trailing, "byte")
        click.echo(f"aprtui: {file.path}: {extra} after the declared values ignored", err=True)
