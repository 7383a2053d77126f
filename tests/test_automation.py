"""The workflow, the script for `git bisect run` and the skill do what they say, run as they stand in the documents."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from aprtui.cli.main import cli
from aprtui.errors import ExitCode
from aprtui.resources import embedded_model
from tests.cli.test_bisect import git
from tests.conftest import CHECKOUT
from tests.faults.children import said

AUTOMATION, SKILL = CHECKOUT / "docs" / "automation.md", CHECKOUT / "docs" / "skill" / "SKILL.md"
ENGINE = '#!/bin/sh\nrm -rf mine; cp -r "$CAPTURES/$(cat which)" mine\n'
"""An engine of somebody's: what it computes depends on the revision of its sources."""


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What engines without and with a bug write."""
    folder = tmp_path_factory.mktemp("captures")
    for name, more in (("good", ""), ("bad", "--inject layer=2,stage=ffn_gate,kind=scale")):
        done = said(f"trace --tokens 1,2,3,4,5,6 --backend numpy --save-tensor-dir {name} {more}", folder)
        assert done.code == 0, done.text
    return folder


def engine_in(folder: Path) -> None:
    folder.mkdir()
    (folder / "my-engine").write_text(ENGINE)
    (folder / "my-engine").chmod(0o755)
    (folder / "Makefile").write_text("all:\n\t@! grep -q broken which\n")
    (folder / "model.gguf").symlink_to(embedded_model())


def shell(script: str, folder: Path, captures: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script with `aprtui` on its path."""
    (programs := folder.parent / "programs").mkdir(exist_ok=True)
    program = programs / "aprtui"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m aprtui "$@"\n')
    program.chmod(0o755)
    names = {f"GIT_{who}_{what}": "toy" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {
        **os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT), "CAPTURES": str(captures),
    }  # fmt: skip
    words = ["bash", *options, "-c", script]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def block(language: str, word: str) -> str:
    """The one block of code of the page that holds `word`."""
    found = re.findall(rf"```{language}\n(.*?)```", AUTOMATION.read_text(), re.DOTALL)
    (only,) = (text for text in found if word in text)
    return str(only)


@pytest.mark.parametrize(("built", "code"), [pytest.param("good", 0, marks=pytest.mark.slow), ("bad", 1)])
def test_the_workflow_fails_where_the_engine_is_wrong_and_keeps_the_report(
    built: str, code: int, tmp_path: Path, captures: Path
) -> None:
    engine_in(folder := tmp_path / "checkout")
    (folder / "which").write_text(built)
    steps = yaml.safe_load(block("yaml", "jobs:"))["jobs"]["numbers"]["steps"]
    runs = [step["run"] for step in steps if "run" in step]
    assert runs[0].startswith("pipx install "), "tests/install does that"
    codes = [shell(run, folder, captures, "-e").returncode for run in runs[1:]]
    assert codes == [0, code]
    (upload,) = (step for step in steps if step.get("uses", "").startswith("actions/upload-artifact"))
    assert upload["if"] == "always()" and "ffn_gate" in (folder / upload["with"]["path"]).read_text()


@pytest.mark.slow
def test_the_script_for_git_bisect_run_names_the_first_bad_commit(tmp_path: Path, captures: Path) -> None:
    engine_in(folder := tmp_path / "history")
    git(folder, "init", "-q", "-b", "main")
    (folder / ".gitignore").write_text("mine\n")
    for number, which in enumerate(("good", "good", "broken", "bad", "bad")):
        (folder / "which").write_text(which)
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "--allow-empty", "-m", f"revision {number}")
    script = block("sh", "git bisect run").replace("BAD GOOD", "HEAD HEAD~4").replace("--model M", "--model model.gguf")
    done = shell(script, folder, captures)
    candidates = re.findall(r"^([0-9a-f]{40})$", done.stdout, re.MULTILINE)
    # The commit that does not build may be the first bad one: git names both.
    expected = [git(folder, "rev-parse", revision) for revision in ("main~2", "main~1")]
    assert sorted(candidates) == sorted(expected), done.stdout + done.stderr


def codes_of(text: str) -> set[int]:
    return {int(number) for number in re.findall(r"(?:^|[.,] |codes: )(\d+)(?= )", text)}


@pytest.mark.parametrize("document", [SKILL, CHECKOUT / "docs" / "llms.txt"], ids=lambda path: path.name)
def test_what_agents_read_names_every_exit_code(document: Path) -> None:
    (told,) = [part for part in re.split(r"\n\n|^## ", document.read_text(), flags=re.MULTILINE) if " 70 " in part]
    assert codes_of(" ".join(told.split())) == set(ExitCode)


def test_the_skill_calls_commands_with_options_that_they_have() -> None:
    spans = [" ".join(span.split()) for span in re.findall(r"`(aprtui [^`]+)`", SKILL.read_text())]
    assert len(spans) > 8
    for span in spans:
        words = shlex.split(span)[1:]
        command: click.Command = cli
        context = click.Context(cli)
        while isinstance(command, click.Group):
            found = command.get_command(context, words.pop(0))
            assert found is not None, span
            command = found
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, span


def test_the_steps_of_the_skill_lead_to_the_stage_its_tokens_and_its_cause(tmp_path: Path, captures: Path) -> None:
    shutil.copytree(captures / "bad", tmp_path / "mine")
    (tmp_path / "model.gguf").symlink_to(embedded_model())
    spans = [" ".join(span.split()) for span in re.findall(r"`(aprtui [^`]+)`", SKILL.read_text())]
    (step,) = (span for span in spans if span.startswith("aprtui replay"))
    command, _, out = step.partition(" > ")
    assert out == "replay.jsonl"
    done = said(command.removeprefix("aprtui "), tmp_path)
    records = [json.loads(line) for line in done.text.splitlines() if line.startswith("{")]
    assert done.code == ExitCode.DIVERGENCE, done.text
    (cause,) = [record for record in records if record["record"] == "cause"]
    first = records[-1]["first_divergence"]
    assert (first["layer"], first["stage"]) == (2, "ffn_gate") and cause["nodes"] == [{"layer": 2, "stage": "ffn_gate"}]
    assert first["token"] == 0 and "multiplied by 2" in records[-1]["headline"]
