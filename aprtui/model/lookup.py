"""Which model a capture was made with, among files at hand; and the texts of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from aprtui.errors import UnreadableError, UsageError
from aprtui.model.digest import file_digest
from aprtui.model.model import model_name
from aprtui.model.open_file import open_model_file
from aprtui.model.split_files import first_part
from aprtui.model.tokenizer import build_tokenizer
from aprtui.progress import Cancelled
from aprtui.trace.capture import Capture
from aprtui.trace.manifest import ModelInfo

Places = Callable[[], Iterable[Path]]
"""Finds model files when it is called, which may take a while."""


def find_models(
    wanted: ModelInfo, files: Iterable[Path], cancelled: Cancelled = lambda: False, elsewhere: Places = tuple
) -> tuple[Path, ...]:
    """Those of the model `files` that are the model `wanted`, in their order, each once; if none is, those `elsewhere`.

    With a digest, the first whose bytes have it: all others would be equal. Without, all of its name (case, punctuation
    and the organisation before a slash aside) and of its architecture, where that is known. Files that cannot be read
    are passed over. A file is hashed only where its architecture is right, one elsewhere only where its name is, too,
    and once: digests are remembered.
    """
    found = _found(wanted, files, cancelled, named_alike=False)
    return found if found or cancelled() else _found(wanted, elsewhere(), cancelled, named_alike=True)


def _found(wanted: ModelInfo, files: Iterable[Path], cancelled: Cancelled, *, named_alike: bool) -> tuple[Path, ...]:
    """With `named_alike` only files of its name, even where a digest is known."""
    found: list[Path] = []
    for path in dict.fromkeys(first_part(file.absolute()) for file in files):
        if cancelled():
            break
        try:
            opened = open_model_file(path, headers_only=True)
            metadata = opened.metadata
            if wanted.architecture and metadata.get("general.architecture") != wanted.architecture:
                continue
            has_name = _plain(model_name(path, metadata)) == _plain(wanted.name)
            if wanted.sha256 is None:
                found += [path] if has_name else []
            elif (has_name or not named_alike) and file_digest(*opened.paths) == wanted.sha256:
                return (path,)
        except (UnreadableError, OSError):
            continue
    return tuple(found)


def token_pieces(
    capture: Capture, files: Iterable[Path], cancelled: Cancelled = lambda: False, elsewhere: Places = tuple
) -> tuple[str, ...] | None:
    """The texts of a capture's tokens: from its manifest, else by the tokenizer of its model, if that is in `files` or
    `elsewhere`.

    None where neither knows them.
    """
    if capture.pieces is not None or capture.tokens is None or capture.model is None:
        return capture.pieces
    for path in find_models(capture.model, files, cancelled, elsewhere):
        try:
            tokenizer = build_tokenizer(path, open_model_file(path, headers_only=True).metadata)
            return tuple(map(tokenizer.piece, capture.tokens))
        except (UnreadableError, UsageError, OSError):
            continue
    return None


def _plain(name: str) -> str:
    return "".join(character for character in name.rpartition("/")[2].lower() if character.isalnum())
