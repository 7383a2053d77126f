"""`--help` is answered without loading what only a run needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aprtui.cli.contracts import SUBCOMMANDS
from aprtui.cli.main import COMMANDS

HEAVY = ("textual", "numba", "gguf", "tokenizers", "jinja2", "llvmlite", "torch", "yaml", "numpy")

SCRIPT = """
import sys
from aprtui.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert ended.code == 0, ended.code
print("LOADED", *[name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *[[name, "--help"] for name in COMMANDS],
        *[["contracts", name, "--help"] for name in SUBCOMMANDS],
    ],
)
def test_help_loads_neither_screens_nor_engines(arguments: list[str]) -> None:
    script = SCRIPT.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert len(done.stdout.splitlines()) > 1


def test_headless_run_never_loads_textual() -> None:
    script = (
        "import sys, contextlib\nfrom aprtui.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main(['run', '-p', 'def', '-n', '1', '--backend', 'numpy'])\n"
        "assert 'textual' not in sys.modules and 'rich' not in sys.modules\nassert 'gguf' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
