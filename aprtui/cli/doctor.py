"""`aprtui doctor`: what was found here, and how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import click

from aprtui import __version__
from aprtui.cli.json_lines import write_record
from aprtui.engine.backends.backend import Backend
from aprtui.engine.backends.registry import device_backends, host_backends


class State(StrEnum):
    """How a finding stands: there, missing but not needed for the core, or missing and needed."""

    OK = "ok"
    OPTIONAL = "optional"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says how to get what is missing."""

    what: str
    state: State
    found: str
    advice: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding.")
def command(as_json: bool) -> int:
    """Say what was found here and how to get what is missing.

    Exit code 0 if everything that the core needs is there, else 4.
    """
    from aprtui.errors import ExitCode

    worst = ExitCode.PASS
    for finding in _findings():
        if as_json:
            write_record(asdict(finding))
        else:
            click.echo(f"{finding.state:8} {finding.what:14} {finding.found}")
            if finding.advice:
                click.echo(f"{'':24}→ {finding.advice}")
        if finding.state is State.MISSING:
            worst = ExitCode.ENGINE
    return worst


def _findings() -> Iterator[Finding]:
    yield Finding(
        "aprtui",
        State.OK,
        f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    )
    yield from _libraries()
    yield from _backends(host_backends())
    yield _kernel_cache()
    yield _embedded_model()
    yield from _backends(device_backends())
    yield from _parities()
    yield _terminal()


def _libraries() -> Iterator[Finding]:
    for name in ("numpy", "numba", "gguf", "tokenizers", "jinja2", "textual"):
        try:
            yield Finding(name, State.OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, State.MISSING, "not installed", f"pip install {name}")


def _backends(backends: Sequence[Backend]) -> Iterator[Finding]:
    """Backends that `doctor` describes: what they run on, or why they cannot run."""
    for backend in backends:
        if backend.description is None:
            continue
        obstacle = backend.obstacle()
        if obstacle is None:
            yield Finding(backend.title, State.OK, backend.description())
        else:
            yield Finding(backend.title, State.OPTIONAL, obstacle.problem, obstacle.advice)


def _kernel_cache() -> Finding:
    from aprtui.resources import kernel_cache

    folder = kernel_cache()
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(parent, os.W_OK):
        return Finding("kernel cache", State.OK, str(folder))
    return Finding(
        "kernel cache", State.OPTIONAL, f"{folder} cannot be written", "set APRTUI_CACHE_DIR to a folder that can"
    )


def _embedded_model() -> Finding:
    from aprtui.resources import embedded_model

    path = embedded_model()
    if path.is_file():
        return Finding("embedded model", State.OK, f"{path.name}, {path.stat().st_size / 1e6:.1f} MB")
    return Finding("embedded model", State.MISSING, "not in this installation", "install aprtui from a wheel again")


def _parities() -> Iterator[Finding]:
    """Which models a device was found to compute as the CPU does, by earlier runs."""
    for backend in device_backends():
        if backend.identity is None or backend.obstacle() is not None:
            continue
        from aprtui.engine.parity.cache import known_parities

        for found in known_parities(backend.identity()):
            passed = found.parity.passed
            state, advice = (State.OK, "") if passed else (State.OPTIONAL, "auto takes the CPU for this model")
            yield Finding(
                f"{backend.title} parity", state, f"{found.model}, {found.date}: {found.parity.reason}", advice
            )


def _terminal() -> Finding:
    if not sys.stdout.isatty():
        return Finding("terminal", State.OPTIONAL, "stdout is no terminal: screens cannot open")
    columns, rows = shutil.get_terminal_size()
    colours = (
        "no colour (NO_COLOR)"
        if os.environ.get("NO_COLOR")
        else os.environ.get("COLORTERM") or os.environ.get("TERM", "")
    )
    advice = "" if columns >= 80 and rows >= 24 else "screens are made for 80 × 24 and more"
    return Finding("terminal", State.OK, f"{columns} × {rows}, {colours}", advice)
