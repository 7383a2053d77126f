"""The main job opens no connection, and nothing is started through a shell."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.install.environment import NO_NETWORK

SCRIPT = f"""{NO_NETWORK}
import asyncio
from aprtui.cli.main import main

model, folder = sys.argv[1:]
os.chdir(folder)
tokens = ["--tokens", "1,2,3", "--backend", "numpy"]
for words, code in (
    (["trace", model, *tokens, "--save-tensor-dir", "A"], 0),
    (["trace", model, *tokens, "--save-tensor-dir", "B", "--mode", "q8"], 0),
    (["replay", "A", "--model", model, "--backend", "numpy", "--stage", "attn_norm"], 0),
    (["diff", "A", "B", "--tolerance", "rel_l2=1"], 0),
    (["stats", "A"], 0),
    (["run", model, *tokens, "-n", "2", "--temp", "0"], 0),
):
    try:
        main(words)
    except SystemExit as ended:
        assert ended.code == code, (words, ended.code)

from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.session import Session
from tests.tui.screens.live.recorded import RecordedSource

async def app():
    async with AprtuiApp(Session(RecordedSource())).run_test() as pilot:
        for key in ("2", "down", "enter"):
            await pilot.press(key)
            await pilot.pause()

asyncio.run(app())
print("all done")
"""


@pytest.mark.gate
def test_the_main_job_and_the_app_open_no_connection(tiny_model: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, str(tiny_model), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "NETWORK" not in done.stderr and done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("all done\n")


def test_nothing_is_started_through_a_shell() -> None:
    found = []
    texts = {path: path.read_text() for path in (CHECKOUT / "aprtui").rglob("*.py")}
    named = {path: text for path, text in texts.items() if re.search(r"shell|\.system|popen|getoutput", text)}
    assert named
    for path, text in named.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                through = called in ("os.system", "os.popen", "subprocess.getoutput", "asyncio.create_subprocess_shell")
                asked = any(word.arg == "shell" for word in node.keywords) and called.startswith("subprocess.")
                found += [f"{path}:{node.lineno}"] if through or asked else []
    assert found == []


def test_every_dependency_has_its_reason_licence_and_size() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    expected = [re.split(r"[^A-Za-z0-9-]", line)[0].lower() for line in project["dependencies"]]
    text = (CHECKOUT / "docs" / "dependencies.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    (_, *table) = rows
    assert [row[0] for row in table] == expected
    assert all(len(row) == 5 and all(row) and float(row[3]) > 0 for row in table)
    assert not any("GPL" in row[2] for row in table)
