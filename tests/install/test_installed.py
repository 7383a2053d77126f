"""What is built is what strangers need: it works away from the checkout, in an environment with nothing else in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from aprtui.build import build_of_checkout
from tests.conftest import CHECKOUT
from tests.install.environment import INSTALLERS, MOST_MEGABYTES, NO_NETWORK, Place, build, install
from tests.install.jobs import JOBS, printed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The wheel as it is unpacked: no compiler on the path, no network; what it needs comes from this environment."""
    folder = tmp_path_factory.mktemp("unpacked")
    (programs := folder / "bin").mkdir()
    shutil.unpack_archive(wheel, folder / "site", "zip")
    (folder / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    program = programs / "aprtui"
    lines = (f"#!{sys.executable}", "import sys", f"sys.path.insert(0, {str(folder / 'site')!r})",
             "import sitecustomize", "from aprtui.cli.main import main", "main()")  # fmt: skip
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    (home := folder / "home").mkdir()
    return Place(programs, home)


def test_the_wheel_is_small_and_carries_its_data(wheel: Path) -> None:
    assert wheel.stat().st_size <= MOST_MEGABYTES * 1e6
    names = zipfile.ZipFile(wheel).namelist()
    for start in (
        "aprtui/data/build.json",
        "aprtui/data/kernels/",
        "aprtui/data/contracts/",
        "aprtui/demo/data/demo-qwen2-q4km.gguf",
    ):
        assert any(name.startswith(start) for name in names), start
    assert {"aprtui/compare/report/templates/report.html", "aprtui/py.typed"} <= set(names)
    assert not any(name.startswith(("tests/", "docs/")) for name in names)


def test_a_wheel_of_the_sdist_is_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (again,) = tmp_path.glob("*.whl")
    first, second = (
        {entry.filename: entry.CRC for entry in zipfile.ZipFile(path).infolist()} for path in (wheel, again)
    )
    assert first == second


@pytest.mark.gate
def test_an_unpacked_wheel_finds_a_planted_bug(unpacked: Place, tmp_path: Path) -> None:
    """By numpy: kernels would be compiled again for the place where it lies."""
    assert printed(unpacked, tmp_path, "aprtui --version").out == f"aprtui {build_of_checkout(CHECKOUT)}\n"
    fault = "--inject layer=2,stage=ffn_gate,kind=scale"
    printed(unpacked, tmp_path, f"aprtui trace --tokens 1,2,3 --backend numpy --save-tensor-dir C {fault}")
    replay = "aprtui replay C --backend numpy --layers 2 --stage ffn_gate"
    assert "layer 2 ffn_gate" in printed(unpacked, tmp_path, replay, 1).out
    assert "aprtui replay mine" in printed(unpacked, tmp_path, "aprtui tour --text").out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_strangers_can_do_all_that_the_documents_say(kind: str, tmp_path: Path) -> None:
    place = install(build(kind, tmp_path), tmp_path)
    for name, job in JOBS.items():
        (own := tmp_path / name.replace(" ", "-")).mkdir()
        job(place, own)
    contracts_of_the_package(place, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.group(name)) for name in ("uv", "pipx")])
def test_tools_that_install_programs_install_this_one(name: str, kind: str, tmp_path: Path) -> None:
    place = install(build(kind, tmp_path), tmp_path, INSTALLERS[name])
    for job in ("first page", "README"):
        (own := tmp_path / job.replace(" ", "-")).mkdir()
        JOBS[job](place, own)


def contracts_of_the_package(place: Place, folder: Path) -> None:
    """The installed program says the same of its contracts' evidence as the checkout, and adds none to itself."""

    def standings(text: str) -> list[tuple[str, str]]:
        records = [json.loads(line) for line in text.splitlines()]
        return [(record["id"], record["evidence"]["standing"]) for record in records if record["record"] == "falsifier"]

    words = [sys.executable, "-m", "aprtui", "contracts", "status", "--json"]
    own = subprocess.run(words, cwd=CHECKOUT, env=os.environ, capture_output=True, text=True, check=False)
    installed = place.run(["aprtui", "contracts", "status", "--json"], folder)
    assert standings(installed.out) == standings(own.stdout) and len(standings(own.stdout)) > 10
    refused = place.run(["aprtui", "contracts", "check", "--record"], folder)
    assert refused.code == 2 and "--evidence-dir" in refused.err
