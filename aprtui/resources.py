"""Where files other than code lie: kernels, contracts and the embedded model.

In a checkout they are folders beside the package; in a wheel they are package data.
"""

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    packaged = _PACKAGE / "data" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


def is_packaged() -> bool:
    """Whether the folders are package data: aprtui is installed, not checked out."""
    return (_PACKAGE / "data" / "contracts").is_dir()


def own_source(path: str) -> Path:
    """Where the file or folder lies here that is called `path` in a checkout."""
    first, _, rest = path.partition("/")
    return _folder(first) / rest if first in ("kernels", "contracts") else _PACKAGE.parent / path


def kernels() -> Path:
    return _folder("kernels")


def contracts() -> Path:
    return _folder("contracts")


def embedded_model() -> Path:
    return _PACKAGE / "demo" / "data" / "demo-qwen2-q4km.gguf"


def _cache() -> Path:
    """The folder of everything that is cached between runs: `APRTUI_CACHE_DIR`, or the user's cache folder."""
    return Path(os.environ.get("APRTUI_CACHE_DIR") or platformdirs.user_cache_dir("aprtui"))


def kernel_cache() -> Path:
    """The folder of compiled CPU kernels."""
    return _cache() / "kernels"


def kernel_image_cache() -> Path:
    """The folder of compiled CUDA kernels."""
    return _cache() / "cuda"


def digest_cache() -> Path:
    """The folder where the SHA-256 of model files is remembered between runs."""
    return _cache() / "sha256"


def parity_cache() -> Path:
    return _cache() / "parity"


def floor_cache() -> Path:
    return _cache() / "floors"


def quality_baselines() -> Path:
    """The folder of the speeds that later quality gates compare with."""
    return _cache() / "quality"
