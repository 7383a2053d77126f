"""Which wheels are packed for a machine without a network; that pip resolves and downloads is not tried here."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.version import Version

from tests.gpu.pack import lacking, present, required


def test_all_that_a_run_on_a_gpu_imports_is_asked_for_but_pycuda_which_is_built() -> None:
    names = {one.name for one in required()}
    assert {"numpy", "gguf", "textual", "nvidia-ml-py", "pytest", "pytest-asyncio"} <= names
    assert not {"pycuda", "mypy", "ruff", "mkdocs-material"} & names


def test_what_is_missing_or_too_old_there_is_packed() -> None:
    there = present(["numpy==2.5.2", "PyYAML==6.0.3", "textual==1.0.0", "not a package", "local @ file:///x"])
    assert there == {"numpy": Version("2.5.2"), "pyyaml": Version("6.0.3"), "textual": Version("1.0.0")}
    wanted = {"numpy": "2.4.6", "pyyaml": "6.0.4", "textual": "8.2.8", "gguf": "0.19.0"}
    asked = [Requirement("numpy>=2.0"), Requirement("textual==8.2.8"), Requirement("gguf")]
    assert lacking(wanted, asked, there) == {"textual": "8.2.8", "gguf": "0.19.0"}
