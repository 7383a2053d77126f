"""`aprtui doctor`: what was found on this machine, and how to get what is missing."""

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

from aprtui.build import this_build
from aprtui.cli.json_lines import write_record
from aprtui.engine.backends.backend import Backend
from aprtui.engine.backends.registry import device_backends, host_backends
from aprtui.errors import ExitCode
from aprtui.model.weight_types import WeightType
from aprtui.resources import embedded_model, kernel_cache


class LineState(StrEnum):
    """How a line stands: there, missing but not needed for the core, or missing and needed."""

    OK = "ok"
    OPTIONAL = "optional"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class DoctorLine:
    """One line of the report; `advice` says how to get what is missing."""

    what: str
    state: LineState
    found: str
    advice: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding.")
def command(as_json: bool) -> int:
    """Say what was found here and how to get what is missing.

    Exit code 0 if everything that the core needs is there, else 4.
    """
    worst = ExitCode.PASS
    for line in _lines():
        if as_json:
            write_record(asdict(line))
        else:
            click.echo(f"{line.state:8} {line.what:14} {line.found}")
            if line.advice:
                click.echo(f"{'':24}→ {line.advice}")
        if line.state is LineState.MISSING:
            worst = ExitCode.ENGINE
    return worst


def _lines() -> Iterator[DoctorLine]:
    system = f"{platform.system()} {platform.machine()}"
    yield DoctorLine("aprtui", LineState.OK, f"{this_build()}, Python {platform.python_version()}, {system}")
    yield from _libraries()
    yield from _backends(host_backends())
    yield _weight_types()
    yield _kernel_cache()
    yield _embedded_model()
    yield from _backends(device_backends())
    yield from _parities()
    yield _terminal()


def _libraries() -> Iterator[DoctorLine]:
    for name in ("numpy", "numba", "gguf", "tokenizers", "jinja2", "textual"):
        try:
            yield DoctorLine(name, LineState.OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield DoctorLine(name, LineState.MISSING, "not installed", f"pip install {name}")


def _backends(backends: Sequence[Backend]) -> Iterator[DoctorLine]:
    """Backends that `doctor` describes: what they run on, or why they cannot run."""
    for backend in backends:
        if backend.description is None:
            continue
        obstacle = backend.obstacle()
        if obstacle is None:
            yield DoctorLine(backend.title, LineState.OK, backend.description())
        else:
            yield DoctorLine(backend.title, LineState.OPTIONAL, obstacle.problem, obstacle.advice)


def _weight_types() -> DoctorLine:
    read, decoded = (
        ", ".join(kind.name for kind in WeightType if kind.format.decoded is slow) for slow in (False, True)
    )
    return DoctorLine("weight types", LineState.OK, f"{read}; dequantised row by row, slower: {decoded}")


def _kernel_cache() -> DoctorLine:
    folder = kernel_cache()
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(parent, os.W_OK):
        return DoctorLine("kernel cache", LineState.OK, str(folder))
    return DoctorLine(
        "kernel cache", LineState.OPTIONAL, f"{folder} cannot be written", "set APRTUI_CACHE_DIR to a folder that can"
    )


def _embedded_model() -> DoctorLine:
    path = embedded_model()
    if path.is_file():
        return DoctorLine("embedded model", LineState.OK, f"{path.name}, {path.stat().st_size / 1e6:.1f} MB")
    return DoctorLine(
        "embedded model", LineState.MISSING, "not in this installation", "install aprtui from a wheel again"
    )


def _parities() -> Iterator[DoctorLine]:
    """Which models a device was found to compute as the CPU does, by earlier runs."""
    for backend in device_backends():
        if backend.identity is None or backend.obstacle() is not None:
            continue
        from aprtui.engine.parity import known_parities

        for found in known_parities(backend.identity()):
            passed = found.parity.passed
            state, advice = (LineState.OK, "") if passed else (LineState.OPTIONAL, "auto takes the CPU for this model")
            yield DoctorLine(
                f"{backend.title} parity", state, f"{found.model}, {found.date}: {found.parity.reason}", advice
            )


def _terminal() -> DoctorLine:
    if not sys.stdout.isatty():
        return DoctorLine("terminal", LineState.OPTIONAL, "stdout is no terminal: screens cannot open")
    columns, rows = shutil.get_terminal_size()
    colours = os.environ.get("COLORTERM") or os.environ.get("TERM", "")
    if os.environ.get("NO_COLOR"):
        colours = "no colour (NO_COLOR)"
    advice = "" if columns >= 80 and rows >= 24 else "screens are made for 80 × 24 and more"
    return DoctorLine("terminal", LineState.OK, f"{columns} × {rows}, {colours}", advice)
