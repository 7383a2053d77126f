"""Reports of internal errors: the traceback goes to a file, the user gets one line that names it."""

from __future__ import annotations

import platform
import sys
import tempfile
import traceback
from pathlib import Path

from aprtui import __version__


def write_report() -> Path:
    """Write the exception being handled, with versions and arguments, to a new file; return its path."""
    with tempfile.NamedTemporaryFile("w", prefix="aprtui-report-", suffix=".txt", delete=False) as file:
        file.write(f"aprtui {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
        file.write(f"arguments: {sys.argv[1:]}\n\n")
        file.write(traceback.format_exc())
    return Path(file.name)
