"""`aprtui doctor`: what was found here, and how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum

import click

from aprtui import __version__
from aprtui.cli.json_lines import write_record


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
    yield _processor()
    yield _kernel_cache()
    yield _embedded_model()
    yield _cuda()
    yield from _parities()
    yield _terminal()


def _libraries() -> Iterator[Finding]:
    for name in ("numpy", "numba", "gguf", "tokenizers", "jinja2", "textual"):
        try:
            yield Finding(name, State.OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, State.MISSING, "not installed", f"pip install {name}")


def _processor() -> Finding:
    from aprtui.engine.opening import numba_missing
    from aprtui.machine import default_threads, memory_bytes, processor_name

    described = f"{processor_name()}, {default_threads()} cores, {memory_bytes() / 1e9:.0f} GB memory"
    missing = numba_missing()
    if missing:
        return Finding("CPU engine", State.OPTIONAL, f"{described}; numpy only, slow", missing)
    from aprtui.engine.cpu.matmul import TIER

    return Finding("CPU engine", State.OK, f"{described}; kernels: {TIER}")


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


def _cuda() -> Finding:
    from aprtui.engine.cuda.detect import detect

    found = detect()
    if found.obstacle is not None:
        return Finding("CUDA", State.OPTIONAL, found.problem, found.advice)
    assert found.driver is not None
    devices, (major, minor) = ", ".join(map(str, found.devices)), found.driver
    described = f"{devices}; driver for CUDA {major}.{minor}; PyCUDA {importlib.metadata.version('pycuda')}"
    return Finding("CUDA", State.OK, described)


def _parities() -> Iterator[Finding]:
    """Which models the GPU was found to compute as the CPU does, by earlier runs."""
    from aprtui.engine.cuda.detect import detect

    device = detect().device
    if device is None:
        return
    from aprtui.engine.parity.cache import kept_parities

    for kept in kept_parities(device):
        state, advice = (State.OK, "") if kept.parity.passed else (State.OPTIONAL, "auto takes the CPU for this model")
        yield Finding("CUDA parity", state, f"{kept.model}, {kept.date}: {kept.parity.reason}", advice)


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
