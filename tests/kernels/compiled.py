"""Kernel files compiled by NVRTC, once for all tests that look at the images."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aprtui.engine.cuda.compilers import Nvrtc
from aprtui.engine.cuda.images import source_digest


def compiled(source: Path, target: str, cache: Path) -> bytes:
    """The cubin of `source` for e.g. `sm_90`, compiled unless `cache` has it from the same sources and compiler."""
    compiler = Nvrtc()
    made_from = f"{source_digest()} {source.name} {target} {compiler.version}"
    path = cache / f"{source.stem}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.cubin"
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_bytes(compiler.compile(source, target))
        partial.replace(path)
    return path.read_bytes()
