"""A program that leaves a capture: `{command: "./engine -m {model} --tokens {tokens} --dump {out}"}`."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from aprtui.errors import EngineError
from aprtui.importing.importer import as_capture
from aprtui.model.model import Model
from aprtui.progress import no_progress
from aprtui.sweep.engines.engine import CaptureJob, EngineKind, token_text
from aprtui.sweep.fields import PlanField

OUT = "{out}"
_PLACES = ("{model}", "{tokens}", "{prompt}", "{threads}", OUT)
_PARTS = "command-output"
"""What a program has left, beside the capture that is made of it."""
_LAST = 200
"""Characters of a program's last line of errors that are told."""


@dataclass(frozen=True, slots=True)
class CommandEngine:
    """The words of a command, which is run in the folder of the plan, without a shell.

    The capture may be one of ours or of another tool. `version` is what the user says of what the program itself does
    not show: a program is taken for another where its file, these words or this text are others.
    """

    words: tuple[str, ...]
    folder: Path = field(compare=False)
    version: str = ""
    gpus: int = 0

    def identity(self) -> str:
        program = self._program()
        with program.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _program(self) -> Path:
        """The file of the program. Raises `EngineError`."""
        first = self.words[0]
        found = str(self.folder / first) if "/" in first else shutil.which(first)
        if found is None or not Path(found).is_file():
            raise EngineError(f"{first}: no such program: name one of PATH, or a file as ./{first}")
        return Path(found)

    def require_usable(self, model: Model, where: str) -> None:
        """What the program cannot do is told by itself."""

    def weight_bytes(self, model: Model) -> int:
        return model.size

    def _filled(self, model: Path, tokens: tuple[int, ...], text: str | None, threads: int, out: str) -> list[str]:
        values = dict(zip(_PLACES, (str(model), token_text(tokens), text or "", str(threads), out), strict=True))
        place = re.compile("|".join(map(re.escape, _PLACES)))
        return [place.sub(lambda found: values[found.group()], word) for word in self.words]

    def capture(self, job: CaptureJob, directory: Path) -> None:
        raw = directory.parent / f"{directory.name}-{_PARTS}"
        try:
            self._run(self._filled(job.model.path, job.tokens, job.text, job.threads, str(raw)))
            if not raw.exists():
                raise EngineError(f"{self.words[0]}: has left nothing at {OUT}: expected a capture there")
            with as_capture(raw, lambda: job.model.graph, lambda _: None, no_progress) as found:
                shutil.copytree(found, directory) if found != raw else raw.rename(directory)
        finally:
            shutil.rmtree(raw, ignore_errors=True)

    def _run(self, words: list[str]) -> None:
        words[0] = str(self._program())
        done = subprocess.run(words, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            said = f": {lines[-1][-_LAST:]}" if lines else ""
            raise EngineError(f"{self.words[0]}: exit code {done.returncode}{said}")

    def by_hand(self, model: Path, tokens: tuple[int, ...], directory: str) -> str:
        return f"cd {shlex.quote(str(self.folder))} && " + shlex.join(self._filled(model, tokens, None, 1, directory))


def _read(fields: Mapping[str, PlanField]) -> CommandEngine:
    command = fields["command"]
    try:
        words = tuple(shlex.split(command.text()))
    except ValueError as error:
        raise command.error(f"{error}: expected words as in a shell") from error
    if not any(OUT in word for word in words):
        raise command.error(f"expected {OUT} where the capture goes; there are also {', '.join(_PLACES[:-1])}")
    made = CommandEngine(words, command.path.parent.absolute())
    return replace(
        made,
        version=fields["version"].text() if "version" in fields else "",
        gpus=fields["gpus"].whole() if "gpus" in fields else 0,
    )


COMMAND = EngineKind("command", ("command", "version", "gpus"), _read)
