"""How long work tells its caller how far it is, also from a child process that a screen has started."""

import json
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and out of how many. What it raises ends the work."""

Cancelled = Callable[[], bool]
"""Called now and then during long work; True ends it, and its result is then worth nothing."""

RECORDS_VARIABLE = "APRTUI_PROGRESS_RECORDS"
"""Environment variable of a program that starts a command and reads its stderr: progress comes as records there."""


def no_progress(what: str, done: int, total: int) -> None:
    """A `Progress` for callers that show none."""


def progress_record(text: str) -> str:
    """A line of stderr that says how far a command is."""
    return json.dumps({"record": "progress", "text": text})


def parse_progress_record(line: str) -> str | None:
    """The text of a line that `progress_record` made; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return str(fields["text"]) if fields.get("record") == "progress" and "text" in fields else None
