"""Kernel images come from where they are quickest to have, and never from other sources or for a newer driver."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from aprtui.engine.cuda import images
from aprtui.engine.cuda.compilers import CompilerError, Nvrtc, find_nvcc
from aprtui.errors import EngineError

KERNEL = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= FACTOR; }\n'


class Compiler:
    """A compiler that says what it was given."""

    def __init__(self, name: str, version: tuple[int, int]) -> None:
        self.name, self.version = name, version
        self.compiled: list[str] = []

    def compile(self, source: Path, architecture: str) -> bytes:
        self.compiled.append(source.stem)
        return f"{self.name} {source.stem} {architecture}".encode()


def missing() -> Compiler:
    raise CompilerError("it is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two kernel files and a header; no compiler is found, and the cache is empty."""
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    (kernels / "factor.cuh").write_text("#define FACTOR 2.0f\n")
    for name in ("first", "second"):
        (kernels / f"{name}.cu").write_text('#include "factor.cuh"\n' + KERNEL)
    monkeypatch.setattr(images, "kernels", lambda: kernels)
    monkeypatch.setenv("APRTUI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "find_nvcc", missing)
    monkeypatch.setattr(images, "Nvrtc", missing)
    return kernels


def found(driver: tuple[int, int] = (13, 0), capability: tuple[int, int] = (9, 0)) -> images.KernelImages:
    return images.kernel_images(capability, driver, lambda what, done, total: None)


def use(monkeypatch: pytest.MonkeyPatch, which: str, compiler: Compiler) -> Compiler:
    monkeypatch.setattr(images, which, lambda: compiler)
    return compiler


@pytest.mark.usefixtures("folder")
def test_without_any_way_the_error_lists_what_each_failed_at() -> None:
    with pytest.raises(EngineError, match=r"no kernels for sm_90: it is not installed; it is not.*: install .*13"):
        found()


@pytest.mark.usefixtures("folder")
def test_compiled_once_then_cached_for_this_architecture_only(monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = use(monkeypatch, "find_nvcc", Compiler("nvcc", (13, 0)))
    first = found()
    assert first.code == {"first": b"nvcc first sm_90", "second": b"nvcc second sm_90"}
    assert found() == first
    assert nvcc.compiled == ["first", "second"]
    assert found(capability=(8, 6)).code["first"] == b"nvcc first sm_86"


@pytest.mark.parametrize("changed", ["first.cu", "factor.cuh"])
def test_changed_sources_are_compiled_again(folder: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    nvcc = use(monkeypatch, "find_nvcc", Compiler("nvcc", (13, 0)))
    before = found()
    (folder / changed).write_text((folder / changed).read_text() + "// changed\n")
    nvcc.name = "changed"
    assert found().digest != before.digest


@pytest.mark.usefixtures("folder")
def test_code_of_a_newer_major_version_than_the_drivers_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "find_nvcc", Compiler("nvcc", (13, 2)))
    use(monkeypatch, "Nvrtc", Compiler("NVRTC", (12, 9)))
    assert found(driver=(13, 0)).origin == "nvcc 13.2"
    # The cache holds code of 13.2 by now, which this driver would refuse.
    assert found(driver=(12, 4)).origin == "NVRTC 12.9"


@pytest.mark.usefixtures("folder")
def test_a_damaged_cache_is_compiled_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = use(monkeypatch, "find_nvcc", Compiler("nvcc", (13, 0)))
    found()
    (cached,) = (tmp_path / "cache").rglob("second.cubin")
    cached.unlink()
    assert found().code["second"] == b"nvcc second sm_90"
    assert len(nvcc.compiled) == 4
    assert cached.exists()


@pytest.mark.usefixtures("folder")
def test_a_cache_that_cannot_be_written_costs_nothing_but_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    use(monkeypatch, "find_nvcc", Compiler("nvcc", (13, 0)))
    assert found().code.keys() == {"first", "second"}


def test_the_wheels_images_come_before_compilers_if_they_are_of_these_sources(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fat(Compiler):
        def fat_binary(self, source: Path, capabilities: tuple[int, ...]) -> bytes:
            return f"{source.stem} for {capabilities}".encode()

    with monkeypatch.context() as compiling:
        compiling.setattr(images, "find_nvcc", lambda: Fat("nvcc", (13, 0)))
        images.write_packaged_images()
    assert found().origin == "wheel, nvcc 13.0"
    assert found().code["first"] == f"first for {images.TARGETS}".encode()
    with pytest.raises(EngineError, match="no kernels"):
        found(driver=(12, 9))
    (folder / "first.cu").write_text("// another")
    with pytest.raises(EngineError, match="no kernels"):
        found()


@pytest.mark.parametrize("damage", ["", "{}", "not JSON", "a file less"])
def test_images_that_a_wheel_brings_damaged_are_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    class Fat(Compiler):
        def fat_binary(self, source: Path, capabilities: tuple[int, ...]) -> bytes:
            return b"fat"

    with monkeypatch.context() as compiling:
        compiling.setattr(images, "find_nvcc", lambda: Fat("nvcc", (13, 0)))
        images.write_packaged_images()
    if damage == "a file less":
        (folder / "images" / "first.fatbin").unlink()
    else:
        (folder / "images" / "about.json").write_text(damage)
    with pytest.raises(EngineError, match="no kernels"):
        found()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("driver", "advice"),
    [((13, 0), "'nvidia-cuda-nvrtc==13.*' 'nvidia-cuda-runtime==13.*'"), ((12, 4), "'nvidia-cuda-nvrtc-cu12'")],
)
def test_the_advice_names_packages_that_there_are(driver: tuple[int, int], advice: str) -> None:
    with pytest.raises(EngineError, match=re.escape(advice)):
        found(driver=driver)


needs_nvcc = pytest.mark.group("nvcc")


@needs_nvcc
def test_nvcc_compiles_and_says_what_it_refuses(folder: Path) -> None:
    compiler = find_nvcc()
    assert compiler.compile(folder / "first.cu", "sm_90").startswith(b"\x7fELF")
    (folder / "first.cu").write_text("int x = ;")
    with pytest.raises(CompilerError, match=r"refuses first.cu: .*expected an expression"):
        compiler.compile(folder / "first.cu", "sm_90")


@needs_nvcc
def test_a_fat_binary_holds_code_for_each_target_and_newer_ones(folder: Path) -> None:
    one = find_nvcc().fat_binary(folder / "first.cu", [90])
    two = find_nvcc().fat_binary(folder / "first.cu", [75, 90])
    assert one[:4] == two[:4] == bytes.fromhex("50ed55ba")
    assert len(two) > len(one)


@pytest.mark.group("nvrtc")
def test_nvrtc_compiles_the_same_and_says_what_it_refuses(folder: Path) -> None:
    compiler = Nvrtc()
    assert compiler.compile(folder / "first.cu", "sm_90").startswith(b"\x7fELF")
    (folder / "first.cu").write_text("__device__ int x = ;")
    with pytest.raises(CompilerError, match=r"refuses first.cu: .*expected an expression"):
        compiler.compile(folder / "first.cu", "sm_90")


def test_a_missing_nvcc_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(CompilerError, match="nvcc is not on PATH"):
        find_nvcc()
