"""`aprtui --version` names the revision that runs, and calls only that a release which is one."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui import __version__
from aprtui.build import (
    BUILD_FILE,
    DOCUMENTATION,
    Build,
    BuildState,
    build_of_checkout,
    packed_build,
    release_of,
    this_build,
    write_build,
)
from aprtui.trace.capture import Capture
from tests.cli.conftest import Outcome
from tests.cli.conftest import aprtui as aprtui
from tests.cli.test_bisect import git
from tests.conftest import CHECKOUT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    git(tmp_path, "init", "-q", "-b", "main", "checkout")
    folder = tmp_path / "checkout"
    (folder / "engine.py").write_text("")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "an engine")
    return folder


def test_only_a_tagged_revision_without_changes_is_a_release(checkout: Path) -> None:
    revision = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert build_of_checkout(checkout) == Build(__version__, revision, BuildState.UNRELEASED)
    git(checkout, "tag", "v0.0.1")
    assert build_of_checkout(checkout).state is BuildState.UNRELEASED, "the tag of another version"
    git(checkout, "tag", f"v{__version__}")
    assert build_of_checkout(checkout) == Build(__version__, revision, BuildState.RELEASE)
    (checkout / "notes").write_text("git does not know this file")
    assert build_of_checkout(checkout).state is BuildState.RELEASE
    (checkout / "engine.py").write_text("changed")
    assert build_of_checkout(checkout) == Build(__version__, revision, BuildState.CHANGED)
    git(checkout, "commit", "-q", "-a", "-m", "behind the tag")
    behind = build_of_checkout(checkout)
    assert behind.state is BuildState.UNRELEASED and behind.revision != revision


def test_the_build_is_unknown_without_git_and_inside_another_repository(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside := checkout / "site-packages").mkdir()
    assert build_of_checkout(inside) == Build(__version__)
    (tmp_path / "empty").mkdir()
    git(tmp_path, "init", "-q", "empty/repository")
    assert build_of_checkout(tmp_path / "empty" / "repository") == Build(__version__), "no commit yet"
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert shutil.which("git") is None
    unknown = build_of_checkout(checkout)
    assert unknown == Build(__version__) and str(unknown) == f"{__version__} (revision unknown)"


def test_a_hook_of_another_repository_does_not_name_our_revision(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert build_of_checkout(checkout).state is BuildState.UNRELEASED


def test_a_package_says_what_it_was_built_from(checkout: Path, tmp_path: Path) -> None:
    path = tmp_path / BUILD_FILE
    path.parent.mkdir(parents=True)
    write_build(checkout, path)
    assert packed_build(tmp_path) == build_of_checkout(checkout)
    for text in ("", "[]", "{}", '{"version": "1", "revision": "2", "state": "3"}'):
        path.write_text(text)
        assert packed_build(tmp_path) is None, text


def test_version_and_doctor_name_the_build(aprtui: Callable[..., Outcome]) -> None:
    build = str(this_build())
    assert build.startswith(f"{__version__} (revision ")
    assert aprtui("--version").out == aprtui("-V").out == f"aprtui {build}\n"
    assert aprtui("doctor").out.splitlines()[0].split(maxsplit=2)[2].startswith(f"{build}, Python")


def test_files_name_the_build_that_wrote_them(aprtui: Callable[..., Outcome], tmp_path: Path) -> None:
    build = str(this_build())
    words = ("--tokens", "1,2", "--backend", "numpy", "--save-tensor", "embedding", "--save-tensor-dir")
    assert aprtui("trace", *words, tmp_path / "capture").code == 0
    manifest = Capture.open(tmp_path / "capture").manifest
    assert manifest is not None and manifest.engine.version == build
    run = ("run", "--tokens", "1,2", "-n", "1", "--backend", "numpy", "--record", tmp_path / "session.jsonl")
    assert aprtui(*run).code == 0
    assert json.loads((tmp_path / "session.jsonl").read_text().splitlines()[0])["program"] == build
    sarif = json.loads(aprtui("contracts", "lint", CHECKOUT / "contracts", "--format", "sarif").out)
    assert sarif["runs"][0]["tool"]["driver"]["version"] == build


def test_help_and_tour_say_where_the_pages_are(aprtui: Callable[..., Outcome]) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Documentation"] == DOCUMENTATION
    assert DOCUMENTATION in aprtui("--help").out and DOCUMENTATION in aprtui("tour", "--text").out


def test_the_release_is_read_from_what_a_build_is_called(checkout: Path) -> None:
    assert release_of(str(build_of_checkout(checkout))) == release_of(str(Build(__version__))) == __version__
    assert release_of("llama-cpp-python 0.3.36") == "llama-cpp-python 0.3.36"
