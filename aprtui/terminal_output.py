"""Text on its way to a terminal: what would move a cursor, change a colour or hide a word is shown instead of obeyed.

Names of files, tensors and stages, texts of manifests and contracts, prompts and what a model says come from others.
All of them reach a terminal through stdout and stderr, so it is here that control characters are taken out. What goes
into a file or a pipe stays as it is.
"""

from __future__ import annotations

import io
import sys
from typing import TextIO

ERASE_LINE = "\r\x1b[K"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
"""Our own sequences: each is written by itself."""

_OWN = frozenset((ERASE_LINE, DIM, PLAIN))
_CONTROLS = (
    *range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0),  # C0 but tab and line feed, delete, C1
    0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A),  # marks and overrides of direction, separators
)  # fmt: skip
_SHOWN = {code: f"\\u{code:04x}" for code in _CONTROLS}
"""As JSON writes them, so that a record stays one."""


def shown(text: str) -> str:
    """`text` without a character that a terminal acts upon, but for tabs and line feeds."""
    return text.translate(_SHOWN)


def is_control(character: str) -> bool:
    """Whether a terminal would act upon the character, or could not be sent it: tabs and line feeds too."""
    return character in "\t\n" or ord(character) in _SHOWN or "\ud800" <= character <= "\udfff"


class TerminalOutput(io.TextIOWrapper):
    """A terminal's stream that shows control characters; `_OWN` sequences pass when they are written alone."""

    def write(self, text: str) -> int:
        super().write(text if text in _OWN else shown(text))
        return len(text)


def guard_streams() -> None:
    """Make stdout and stderr streams that take any text.

    On a terminal they show control characters; elsewhere, what is no Unicode (bytes of a file name) is written as
    JSON and Python have it (`\\udcff`).
    """
    sys.stdout, sys.stderr = _guarded(sys.stdout), _guarded(sys.stderr)


def _guarded(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, TerminalOutput):
        return stream
    if not stream.isatty():
        stream.reconfigure(errors="backslashreplace")
        return stream
    return TerminalOutput(stream.buffer, stream.encoding, "backslashreplace", line_buffering=True)
