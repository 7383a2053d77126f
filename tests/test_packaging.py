"""What is built is what is needed: a wheel works away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT


@pytest.mark.slow
def test_wheel_carries_its_data_and_runs_away_from_the_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(CHECKOUT)], check=True)
    (wheel,) = tmp_path.glob("aprtui-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("aprtui/data/kernels/") for name in names)
    assert any(name.startswith("aprtui/data/contracts/") for name in names)
    assert any(name.startswith("aprtui/demo/data/") and name.endswith(".gguf") for name in names)
    assert "aprtui/compare/report/templates/report.html" in names
    assert not any(name.startswith("tests/") for name in names)
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", "import aprtui; print(aprtui.__file__); from aprtui.cli.main import main; main()",
         "run", "-p", "def fib(n):", "-n", "8"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(tmp_path / "site") in done.stdout
    assert "tokens/s" in done.stderr
    contracts_of_the_wheel(tmp_path)


def contracts_of_the_wheel(folder: Path) -> None:
    """The installed program says the same of its contracts' evidence as the checkout, and adds none to itself."""

    def aprtui(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from aprtui.cli.main import main; main()", "contracts", *words]
        environment = os.environ | {"PYTHONPATH": str(site)}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    def standings(site: Path) -> list[tuple[str, str]]:
        records = [json.loads(line) for line in aprtui(site, "status", "--json").stdout.splitlines()]
        return [(record["id"], record["evidence"]["standing"]) for record in records if record["record"] == "falsifier"]

    assert standings(folder / "site") == standings(CHECKOUT) and len(standings(CHECKOUT)) > 10
    refused = aprtui(folder / "site", "check", "--record")
    assert refused.returncode == 2 and "--evidence-dir" in refused.stderr
