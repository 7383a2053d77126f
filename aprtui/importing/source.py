"""What an importer reads: tensors by name, from one file or a folder of files, and what is known about them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from aprtui.errors import UnreadableError
from aprtui.importing import numpy_files, safetensors_file, torch_file
from aprtui.importing.elements import SourceTensor

MOST_FILES = 200_000


@dataclass(frozen=True, slots=True)
class Source:
    """Tensors of another tool, none of them read yet.

    `tokens` are the ids that were evaluated, where the files tell; `facts` are lines for `_PROVENANCE.txt`, `notes`
    what a person should know.
    """

    path: Path
    tensors: Mapping[str, SourceTensor]
    tokens: tuple[int, ...] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _one(path: Path) -> Mapping[str, SourceTensor]:
    return {"": numpy_files.read_npy(path, path.stem)}


READERS: Mapping[str, Callable[[Path], Mapping[str, SourceTensor]]] = MappingProxyType(
    {
        ".npy": _one,
        ".npz": numpy_files.read_npz,
        safetensors_file.SUFFIX: safetensors_file.read_safetensors,
        **dict.fromkeys(torch_file.SUFFIXES, torch_file.read_torch),
    }
)
"""How files of each suffix are read: their tensors by name, a nameless one where a file is one tensor."""


def tensor_files(path: Path) -> Iterator[Path]:
    """Files of tensors at or below `path`, in order of their names. Links to folders are not followed."""
    if not path.is_dir():
        yield path
        return
    count = 0
    for folder, folders, names in os.walk(path, followlinks=False):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > MOST_FILES:
                raise UnreadableError(f"{path}: more than {MOST_FILES} files: name the folder of one capture")
            if Path(name).suffix in READERS:
                yield Path(folder, name)


def read_tensors(path: Path) -> dict[str, SourceTensor]:
    """The tensors of one file by their names in it, or of a folder by `FOLDER/FILE/NAME`, files without their suffix.

    A file that is one tensor has its own name. Raises `UnreadableError`.
    """
    if not path.exists():
        raise UnreadableError(f"{path}: does not exist: expected a file or a folder of tensors")
    if path.is_file() and path.suffix not in READERS:
        raise UnreadableError(f"{path}: not a file of tensors: expected {', '.join(READERS)}")
    found: dict[str, SourceTensor] = {}
    for file in tensor_files(path):
        base = file.relative_to(path).with_suffix("").as_posix() if path.is_dir() else ""
        for name, tensor in READERS[file.suffix](file).items():
            full = "/".join(part for part in (base, name) if part) or file.stem
            if full in found:
                raise UnreadableError(f"{file}: a second tensor named {full!r:.80}: rename one of the files")
            found[full] = tensor
    if not found:
        raise UnreadableError(f"{path}: holds no tensors: expected files of {', '.join(READERS)}")
    return found
