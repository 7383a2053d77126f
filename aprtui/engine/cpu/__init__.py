"""The CPU backend: the stage graph lowered to a program that compiled kernels run without the interpreter lock.

Compiled kernels are kept on disk. numba notices changes of a cached function's own file only, not of the files it
calls, of the table of weight types or of the tier chosen at import, so the folder is named by a digest of all of these.
numba reads the folder's name when it is first imported. So it is set here, before any module of this package imports
numba; where another package has imported numba already, its configuration is changed.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

from aprtui.model import weight_types
from aprtui.resources import kernel_cache


def _digest() -> str:
    sources = [*sorted(Path(__file__).parent.rglob("*.py")), Path(weight_types.__file__)]
    digest = hashlib.sha256(os.environ.get("APRTUI_CPU_TIER", "").encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _writable_folder() -> Path:
    folder = kernel_cache() / _digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # A home that cannot be written costs a compilation in every run, but works.
        return Path(tempfile.mkdtemp(prefix="aprtui-kernels-"))
    return folder


os.environ["NUMBA_CACHE_DIR"] = str(_writable_folder())
if "numba" in sys.modules:
    sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]
