"""Errors that are reported to the user in one line, and the exit code that goes with each.

Every error a user may cause derives from `AprtuiError` and reads as one line: what is wrong, where, what was expected
and what to do. Anything else that escapes is a bug, and the command line reports it as one.
"""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType


class ExitCode(IntEnum):
    """Exit codes of every command; `--bisect` maps all but PASS, DIVERGENCE and INTERRUPTED to UNKNOWN."""

    PASS = 0
    DIVERGENCE = 1
    USAGE = 2
    UNREADABLE = 3
    ENGINE = 4
    INTERNAL = 70
    UNKNOWN = 125
    INTERRUPTED = 130


VERDICT_CODES: Mapping[str, ExitCode] = MappingProxyType(
    {"PASS": ExitCode.PASS, "FAIL": ExitCode.DIVERGENCE, "UNKNOWN": ExitCode.UNKNOWN}
)
"""The exit code of a verdict."""


def printable(text: str) -> str:
    """`text` in one line that moves no cursor: what is not printable (line breaks, escape sequences) is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class AprtuiError(Exception):
    """Base of all errors that are reported as one line.

    Names in a message may come from a hostile file, so it is made printable.
    """

    exit_code = ExitCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UsageError(AprtuiError):
    """The request makes no sense: unknown stage, empty layer range, prompt longer than the context, …"""

    exit_code = ExitCode.USAGE


class UnreadableError(AprtuiError):
    """An input is missing, corrupt or not supported."""

    exit_code = ExitCode.UNREADABLE


class UnreachableError(AprtuiError):
    """Another machine does not answer, or refuses: no file is known to be missing or damaged by that."""

    exit_code = ExitCode.UNREADABLE


class EngineError(AprtuiError):
    """Engine, device or output failed: unwritable directory, full disk, does not fit in memory, …"""

    exit_code = ExitCode.ENGINE


class DeviceError(EngineError):
    """A device failed such that every further call to it fails too: only a new process can go on."""
