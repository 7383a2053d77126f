"""The shell completes commands, options, choices and files, by the lines that the documents say."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A script of bash with `aprtui` on its path."""
    program = folder / "programs" / "aprtui"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m aprtui "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )


def documented(shell: str) -> str:
    text = (CHECKOUT / "docs" / "installation.md").read_text()
    (line,) = (line for line in text.splitlines() if f"{shell}_source" in line)
    return line


def test_bash_completes_by_the_documented_line(tmp_path: Path) -> None:
    asked = "COMP_WORDS=(aprtui rep); COMP_CWORD=1; _aprtui_completion aprtui; echo ${COMPREPLY[@]}"
    done = run(f"{documented('bash')}; complete -p aprtui; {asked}", tmp_path)
    assert done.stdout.splitlines() == ["complete -o nosort -F _aprtui_completion aprtui", "replay"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_and_nothing_else(shell: str, tmp_path: Path) -> None:
    done = run(f"_APRTUI_COMPLETE={shell}_source aprtui", tmp_path)
    assert "_aprtui_completion" in done.stdout and "def fib" not in done.stdout
    assert f"_APRTUI_COMPLETE={shell}_source aprtui" in documented(shell) and not done.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("diff --re", {"plain,--replay"}),
        ("run --backend c", {"plain,cpu", "plain,cuda"}),
        ("contracts v", {"plain,validate", "plain,verify-evidence"}),
        ("replay go", {"file,go"}),
        ("open go", {"file,go"}),
        ("run mo", {"file,mo"}),
    ],
)
def test_words_are_completed_by_what_the_command_takes(
    words: str, found: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from aprtui.cli.main import main

    monkeypatch.setenv("_APRTUI_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"aprtui {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert set(capsys.readouterr().out.split()) == found
