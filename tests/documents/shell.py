"""A block of commands is executed as a reader would: line by line, in one folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cli.conftest import Outcome
from tests.conftest import CHECKOUT
from tests.tui.test_terminal import LOADING_SECONDS, Terminal

Run = Callable[..., Outcome]
_EXTRAS = re.compile(r"aprtui\[([\w,]+)\]")


def said(words: str, folder: Path) -> Outcome:
    """Run a line by a shell that finds the program, and the stand-ins of others, on its path."""
    done = subprocess.run(
        ["bash", "-c", words], cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def program(folder: Path, name: str, script: str) -> None:
    """A program on the path of the shell."""
    path = folder / ".programs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def environment(folder: Path) -> dict[str, str]:
    program(folder, "aprtui", f'exec {shlex.quote(sys.executable)} -P -m aprtui "$@"')
    names = {f"GIT_{who}_{what}": "toy" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = os.pathsep.join((str(folder / ".programs"), str(Path(sys.executable).parent), os.environ["PATH"]))
    more = os.pathsep.join((str(CHECKOUT), os.environ.get("PYTHONPATH", "")))
    return {**os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull, "PATH": path, "PYTHONPATH": more}


def plain(line: str) -> bool:
    """Whether a line is a call of aprtui and nothing that a shell does."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    found = list(words)
    return found[0] == "aprtui" and not any(set(word) <= set("|&;<>()") or word[0] in "~$" for word in found)


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who types what stands on a page, in a folder."""

    folder: Path
    aprtui: Run
    in_process: bool = True
    """Whether commands of aprtui are, which saves their start; not where a library keeps the streams of the first."""

    def types(self, line: str, shown: str) -> Outcome:
        """`shown` is what the screen has to show, where the line opens the app."""
        words = shlex.split(line, comments=True)
        if words[:2] == ["pip", "install"]:
            return self._installs(words[2:])
        if words[:2] == ["aprtui", "open"]:
            return self._opens(words, shown)
        return self.aprtui(*words[1:]) if self.in_process and plain(line) else said(line, self.folder)

    def _installs(self, what: list[str]) -> Outcome:
        """Nothing is installed; an extra that is named has to exist."""
        extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [extra for word in what for found in _EXTRAS.findall(word) for extra in found.split(",")]
        missing = [extra for extra in named if extra not in extras]
        return Outcome(1 if missing else 0, "", f"no extra: {missing}")

    def _opens(self, words: list[str], shown: str) -> Outcome:
        """The app comes up in a terminal, shows what it should, and goes at `q`."""
        command = shlex.join([sys.executable, "-P", "-m", *words])
        paths = {name: environment(self.folder)[name] for name in ("PYTHONPATH", "APRTUI_CACHE_DIR")}
        terminal = Terminal(f"aprtui-test-{uuid.uuid4().hex}", command, self.folder, **paths)
        try:
            screen = terminal.until(f"({shown})|exit code", LOADING_SECONDS)
            terminal.press("q")
            left = terminal.until(r"exit code \d+")
        finally:
            terminal.close()
        code = re.search(r"exit code (\d+)", left)
        return Outcome(int(code[1]) if code else -1, screen, left)
