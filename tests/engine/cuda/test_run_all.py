"""`tests/gpu/run_all.sh`, rehearsed without a GPU: what it runs, and what a failure or a lack of time costs.

Its commands are programs of this test; that they exist and take their options is another claim here.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import click
import pytest

from aprtui.cli.main import cli
from tests.conftest import CHECKOUT

SCRIPT = CHECKOUT / "tests" / "gpu" / "run_all.sh"
PARTS = [
    "device", "doctor", "trace", "replay", "small", "7b", "llama-cpp", "1.5b", "long", "soak", "tests", "kernels",
    "sanitizers",
]  # fmt: skip


def rehearse(folder: Path, program: str, **environment: str) -> tuple[list[str], Path]:
    """The lines of the summary, where every command is the shell script `program`; and the folder of the results."""
    commands = folder / "bin"
    commands.mkdir()
    for name in ("python", "nvidia-smi", "llama-bench"):
        path = commands / name
        path.write_text(f"#!/bin/sh\n{program}\n")
        path.chmod(0o755)
    settings = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHON": "python",
        "LLAMA_BENCH": str(commands / "llama-bench"),
        "SAID": str(folder / "said"),
    }
    out = folder / "out"
    done = subprocess.run(
        [SCRIPT, out], env=os.environ | settings | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (out / "summary.txt").read_text()
    return done.stdout.splitlines(), out


def test_every_part_runs_in_its_order_and_keeps_what_it_said(tmp_path: Path) -> None:
    summary, out = rehearse(tmp_path, 'echo "$0 $*"')
    assert [line.partition(":")[0] for line in summary] == PARTS
    assert all(line.endswith("s, done") for line in summary)
    assert "bench gpu" in (out / "7b.txt").read_text()
    assert "-m " + str(out / "models" / "random-7b-q4km.gguf") in (out / "llama-cpp.txt").read_text()


def test_a_part_that_fails_says_why_and_costs_no_other(tmp_path: Path) -> None:
    summary, out = rehearse(tmp_path, 'case "$*" in *1.5b*|*doctor*) echo cause >&2; exit 4;; esac; echo fine')
    failed = [line for line in summary if "failed" in line]
    assert [line.partition(":")[0] for line in failed] == ["doctor", "1.5b", "soak"]
    assert all(line.endswith("failed with 4: cause") for line in failed)
    assert (out / "sanitizers.txt").read_text() == "fine\n"


def test_when_the_time_is_up_figures_are_kept_and_the_rest_is_left_out(tmp_path: Path) -> None:
    summary, out = rehearse(tmp_path, 'case "$*" in *small*|*tiny*) echo figure; exec sleep 60;; esac', LIMIT="5")
    (small,) = [line for line in summary if line.startswith("small")]
    assert small.endswith("out of time")
    assert (out / "small.txt").read_text() == "figure\n"
    assert summary[-1] == "sanitizers: left out, the time is up"


def test_the_parts_fit_into_the_limit_but_for_what_only_a_failure_takes() -> None:
    text = SCRIPT.read_text()
    seconds = [int(number) for number in re.findall(r"^(?:part|bench|measured_peer) \S+ (\d+)", text, re.MULTILINE)]
    assert len(seconds) == len(PARTS)
    before_tests = sum(seconds[: PARTS.index("tests")])
    assert before_tests <= 720, "all figures come before the time is up, however long each part takes"


@pytest.mark.parametrize("words", re.findall(r"-m aprtui ([^\n]*(?:\\\n[^\n]*)?)", SCRIPT.read_text()))
def test_the_commands_take_their_options(words: str) -> None:
    command: click.Command = cli
    names = words.replace("\\\n", " ").split()
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), names.pop(0))
        assert found is not None, words
        command = found
    known = {option for parameter in command.params for option in parameter.opts}
    used = set(re.findall(r"--[a-z-]+", " ".join(names)))
    if command.name == "gpu":
        used |= _bench_options()
    assert used <= known


def _bench_options() -> set[str]:
    lines = re.findall(r"^bench ([^\n]*)", SCRIPT.read_text(), re.MULTILINE)
    return {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
