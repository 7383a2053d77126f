"""`aprtui tour` without a terminal: the steps as commands, each of which does what it says."""

from __future__ import annotations

import errno
import shlex
import tempfile
from collections.abc import Callable

import pytest

from aprtui.tui.tour.steps import OWN_ENGINES, STEPS
from tests.cli.conftest import Outcome
from tests.documents.blocks import commands

Run = Callable[..., Outcome]


def test_the_text_has_every_command_and_the_way_to_other_engines(aprtui: Run) -> None:
    for arguments in (["--text"], []):  # the tests have no terminal
        said = aprtui("tour", *arguments)
        assert said.code == 0 and said.err == ""
        lines = [line.strip() for line in said.out.splitlines()]
        assert all(command in lines for step in STEPS for command in step.commands)
        assert all(line.strip() in lines for engine in OWN_ENGINES for line in engine.lines)
        assert max(map(len, lines)) <= 110


def test_the_page_of_the_tour_has_the_same_commands() -> None:
    """tests/documents executes them."""
    expected = [shlex.split(command)[1:] for step in STEPS for command in step.commands]
    assert commands("docs/tour.md", "## Without a terminal") == expected


def test_no_place_for_the_captures_is_one_line(aprtui: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aprtui.cli.open.on_terminal", lambda: True)

    def refused(**options: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refused)
    said = aprtui("tour")
    assert said.code == 4
    problem = "No usable temporary directory found"
    assert said.err == f"aprtui: tour: {problem}: set TMPDIR to one that can be written\n"
