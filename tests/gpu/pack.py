"""The wheels that a machine with a GPU and without a network lacks: `python -m tests.gpu.pack OUT --present LIST`.

LIST is what `python3 -m pip list --format=freeze` says on that machine. Run this under its version of Python. What a
user of the CUDA backend needs, and what our tests need, is resolved as pip would install it. What LIST does not have is
laid into OUT; PyCUDA, which PyPI has as source only, is built.

numba and llvmlite are never packed: llvmlite alone would take nearly all of what may travel (`MOST`). Images with
scientific packages have both; where LIST lacks them, a line says what cannot run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CHECKOUT = Path(__file__).parents[2]
MOST = 64 << 20
"""Bytes of all wheels together."""

LEFT_OUT = ("numba", "llvmlite")
_TESTS = ("pytest", "pytest-asyncio", "hypothesis", "packaging")


def required() -> list[Requirement]:
    """What aprtui, its CUDA backend and its tests ask for, but for what is built here."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    of_tests = [text for text in optional["dev"] if Requirement(text).name in _TESTS]
    all_of_them = map(Requirement, [*project["dependencies"], *optional["cuda"], *of_tests])
    return [one for one in all_of_them if one.name != "pycuda"]


def present(lines: Iterable[str]) -> dict[str, Version]:
    """Versions by the canonical name, of lines like `numpy==2.5.2`."""
    pairs = (line.strip().partition("==") for line in lines if "==" in line)
    return {canonicalize_name(name): Version(version) for name, _, version in pairs}


def lacking(wanted: Mapping[str, str], asked: Iterable[Requirement], there: Mapping[str, Version]) -> dict[str, str]:
    """Of the packages `wanted`, by name, those that are not there, or not in a version that is asked for."""
    unfit = {
        canonicalize_name(one.name)
        for one in asked
        if (found := there.get(canonicalize_name(one.name))) is not None and found not in one.specifier
    }
    return {name: version for name, version in wanted.items() if name not in there or name in unfit}


def resolved(asked: Iterable[Requirement]) -> dict[str, str]:
    """Versions of everything that pip would install, by the canonical name."""
    report = _pip("install", "--dry-run", "--ignore-installed", "--report", "-", *map(str, asked))
    found = (one["metadata"] for one in json.loads(report)["install"])
    return {canonicalize_name(one["name"]): one["version"] for one in found}


def _pip(*words: str | Path) -> str:
    constraints = CHECKOUT / ".ci" / "constraints.txt"
    options = ("--quiet", "--only-binary=:all:", "--constraint", constraints)
    command = [sys.executable, "-m", "pip", *map(str, (words[0], *options, *words[1:]))]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _built_pycuda(folder: Path) -> None:
    version = dict(line.split("==") for line in (CHECKOUT / ".ci/constraints.txt").read_text().split() if "==" in line)
    command = [str(CHECKOUT / ".ci" / "pycuda-wheel"), sys.executable, version["pycuda"]]
    wheel = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    shutil.copy(wheel, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--present", type=Path, required=True)
    options = parser.parse_args()
    asked = required()
    missing = lacking(resolved(asked), asked, present(options.present.read_text().splitlines()))
    options.out.mkdir(parents=True, exist_ok=True)
    packed = {name: version for name, version in missing.items() if name not in LEFT_OUT}
    if packed:
        _pip("download", "--no-deps", "--dest", options.out, *(f"{name}=={packed[name]}" for name in packed))
    _built_pycuda(options.out)
    sizes = {path.name: path.stat().st_size for path in options.out.glob("*.whl")}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        print(f"{sizes[name] / 1e6:8.2f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:8.2f} MB  in all, of {MOST / 1e6:.0f} MB")
    for name in sorted(set(missing) & set(LEFT_OUT)):
        print(f"{name} is missing there and left out: the CPU engine, and what compares with it, cannot run")
    return int(sum(sizes.values()) > MOST)


if __name__ == "__main__":
    sys.exit(main())
