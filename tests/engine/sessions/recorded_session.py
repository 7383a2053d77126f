"""A session on file, of plausible records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aprtui.engine.generation import StopReason
from aprtui.engine.process.messages import Finished, TokenNames, TokenText
from aprtui.engine.process.slots import CANDIDATES
from aprtui.engine.sampling import Sampling
from aprtui.engine.sessions.format import SessionStart
from aprtui.engine.sessions.recording import SessionWriter
from tests.tui.screens.live.recorded import PIECES, example_info, example_record

START = SessionStart(
    replace(example_info(), fault_kinds={}), Sampling(temperature=0.5, seed=3), "<s>def fib(n):", "def fib(n):",
    (1, 2, 3, 4, 5), created=1_777_291_200.0, version="0.1",
)  # fmt: skip


def write_session(
    path: Path, start: SessionStart = START, pieces: Sequence[str] = PIECES, *, ended: bool = True, lens: bool = False
) -> Path:
    """Write a session in which `pieces` were generated; one that did not end is without its last line."""
    with SessionWriter(path, start) as writer:
        for index, piece in enumerate(pieces):
            record = example_record(start.engine, index, lens=lens)
            names = ((100 + index, piece), *((500 + rank, f" other{rank}") for rank in range(CANDIDATES)))
            writer.send(TokenNames(names))
            writer.write(record)
            writer.send(TokenText(1, index, 100 + index, piece, record.logprob, record.entropy, record.margin))
        if ended:
            writer.send(Finished(1, StopReason.STOP_TOKEN, ""))
    return path
