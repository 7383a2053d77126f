"""aprtui built, installed in an empty environment, and run there: no compiler on the path, no connection allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import CHECKOUT

NO_NETWORK = """
import os, sys

def forbid(event, arguments):
    local = event == "socket.connect" and isinstance(arguments[1], (str, bytes))
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto") and not local:
        os.write(2, f"NETWORK {event} {arguments!r}\\n".encode())
        os._exit(99)

sys.addaudithook(forbid)
"""
"""Ends the process with exit code 99 where it opens a connection to anywhere but a socket file."""
MOST_MEGABYTES = 8.0
"""A wheel may be so large."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended, and what it cost."""

    code: int
    out: str
    err: str
    to_first_output: float
    """Seconds until the first byte of stdout."""
    processor: float
    """Seconds of processor time, children included."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where programs run: their PATH, a home of their own, and nothing else of this process's environment."""

    programs: Path
    home: Path

    def run(self, words: list[str], folder: Path, **more: str) -> Done:
        environment = {"PATH": str(self.programs), "HOME": str(self.home), "LANG": "C.UTF-8", "TERM": "dumb", **more}
        program = shutil.which(words[0], path=str(self.programs))
        assert program is not None, f"{words[0]} is not in {self.programs}"
        began = time.monotonic()
        with open(self.home / "stderr", "w+b") as err:
            process = subprocess.Popen(
                [program, *words[1:]], cwd=folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err,
            )  # fmt: skip
            assert process.stdout is not None
            first = process.stdout.read(1)
            seconds = time.monotonic() - began
            rest = process.stdout.read()
            process.stdout.close()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            err.seek(0)
            said = err.read().decode(errors="replace")
        out = (first + rest).decode(errors="replace")
        return Done(process.returncode, out, said, seconds, used.ru_utime + used.ru_stime)


def build(kind: str, folder: Path) -> Path:
    """The `wheel` or `sdist` of this checkout, written to `folder`."""
    words = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    subprocess.run(words, cwd=CHECKOUT, check=True, capture_output=True)
    (made,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@dataclass(frozen=True, slots=True)
class Installer:
    """What puts a package into an environment of its own: its commands, and where programs and packages are then. All
    is below a home that was empty, in which the commands run."""

    commands: tuple[str, ...]
    programs: str
    packages: str


INSTALLERS: Mapping[str, Installer] = {
    "pip": Installer(
        ("PYTHON -m venv venv", "venv/bin/python -m pip install --quiet PACKAGE"),
        "venv/bin", "venv/lib/python*/site-packages",
    ),
    "uv": Installer(
        ("uv tool install --quiet --python PYTHON PACKAGE",),
        ".local/bin", ".local/share/uv/tools/aprtui/lib/python*/site-packages",
    ),
    "pipx": Installer(
        ("pipx install --quiet --python PYTHON PACKAGE",),
        ".local/bin", ".local/share/pipx/venvs/aprtui/lib/python*/site-packages",
    ),
}  # fmt: skip
_OF_THIS_PROCESS = ("PYTHON", "XDG_", "UV_TOOL_", "PIPX_", "VIRTUAL_ENV")
"""How variables begin that name places of the person who runs this."""


def install(package: Path, folder: Path, installer: Installer = INSTALLERS["pip"]) -> Place:
    """`package` and what it needs, in a home that was empty; offline from then on. Downloads are kept as usual."""
    (home := folder / "home").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THIS_PROCESS)}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))}
    places = {"PYTHON": sys.executable, "PACKAGE": str(package)}
    for command in installer.commands:
        words = [places.get(word, word) for word in command.split()]
        done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (packages,) = home.glob(installer.packages)
    (packages / "sitecustomize.py").write_text(NO_NETWORK)
    return Place(home / installer.programs, home)
