"""What `promote` and `withdraw` share: their words, the falsifiers that they name, and the edit of a contract."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from aprtui.cli.contracts.shared import print_line, read_documents
from aprtui.contracts.documents.document import BLOCKER, ContractError, Document, Falsifier, Maturity
from aprtui.errors import EngineError, UnreadableError, UsageError
from aprtui.resources import is_packaged

if TYPE_CHECKING:
    from aprtui.contracts.changes.promotion import Promotion

PROPOSED = "PROPOSED"
RAISED = tuple(level.label for level in (Maturity.ALGORITHM, Maturity.FUNCTIONAL, Maturity.DISCHARGED))


def split_words(
    verb: str, words: tuple[str, ...], levels: Sequence[str]
) -> tuple[tuple[str, ...], str | None, tuple[Path, ...]]:
    """The ids before the level, the level, and the paths behind it. Without a level, what exists as a file is a path.

    Raises `UsageError` where no id is given, and for a word that looks like a level and is none.
    """
    at = next((index for index, word in enumerate(words) if _is_level(word)), None)
    if at is None:
        level, paths = None, tuple(Path(word) for word in words if word and Path(word).exists())
        ids = tuple(word for word in words if not word or Path(word) not in paths)
    else:
        ids, level, paths = words[:at], words[at], tuple(map(Path, words[at + 1 :]))
    if level is not None and level.upper() not in levels and not level.upper().startswith(BLOCKER):
        raise UsageError(f"{verb}: {level!r:.60}: expected {', '.join(levels)}")
    if level is not None and level.upper().startswith(BLOCKER) and PROPOSED not in levels:
        raise UsageError(f"{verb}: {level!r:.60} claims nothing: aprtui contracts withdraw sets it")
    if not ids:
        raise UsageError(f"{verb}: no falsifier is named: give its id, as aprtui contracts {verb} MY-001 …")
    return ids, level, paths


def _is_level(word: str) -> bool:
    return word.upper() in (PROPOSED, *RAISED) or word.upper().startswith(BLOCKER)


def status_of(level: str) -> str:
    """The status that a level is written as. Raises `UsageError`."""
    word = level.upper()
    rest = word.removeprefix(BLOCKER).replace("_", "")
    if word.startswith(BLOCKER) and not (rest.isalnum() and rest.isascii()):
        raise UsageError(f"{level!r:.60} is no status: expected {BLOCKER} and letters, digits and underscores")
    return word


def falsifiers_of(verb: str, ids: Sequence[str], paths: tuple[Path, ...]) -> Iterator[tuple[Document, Falsifier]]:
    """Each falsifier that is named, with its contract. Raises `UsageError` for one that is nowhere or in two contracts,
    and `UnreadableError` where it may be in a contract that cannot be read."""
    if not paths and is_packaged():
        raise UsageError(f"{verb}: aprtui's own contracts are part of the installed program: name a contract of yours")
    documents, broken = read_documents(paths)
    for name in dict.fromkeys(ids):
        yield _found(verb, name, documents, broken)


def _found(verb: str, name: str, documents: Sequence[Document], broken: bool) -> tuple[Document, Falsifier]:
    found = [(document, test) for document in documents for test in document.falsifiers if test.id == name]
    if not found and broken:
        raise UnreadableError(f"{verb}: {name!r:.60} is in no contract that can be read: correct the others")
    if not found:
        levels = f"expected one, or {', '.join((PROPOSED, *RAISED))} or {BLOCKER}…"
        raise UsageError(f"{verb}: {name!r:.60} is no falsifier (see aprtui contracts status), and no level: {levels}")
    if len(found) > 1:
        places = ", ".join(f"{document.path}:{test.line}" for document, test in found[:3])
        raise UsageError(f"{verb}: {name!r:.60} occurs {len(found)} times ({places}): name one contract")
    document, falsifier = found[0]
    if document.duplicates:
        first = document.duplicates[0]
        raise ContractError(document.path, first.line, f"the key {first.key!r:.60} occurs twice: correct it first")
    return document, falsifier


def rewrite(document: Document, promotions: Sequence[Promotion]) -> None:
    """Write the contract with the new statuses, and say what was done. Raises `ContractError` and `EngineError`."""
    from aprtui.contracts.changes.promotion import block_name, next_version, promoted
    from aprtui.trace.aprt import write_atomically

    path = document.path.resolve()
    try:
        text = path.read_bytes().decode("utf-8")
        mode = path.stat().st_mode & 0o777
        if not (mode & 0o222 and os.access(path, os.W_OK)):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise EngineError(f"{path}: cannot be edited: {error.strerror}: make it writable") from error
    result = promoted(text, document, promotions, datetime.now(UTC).strftime("%Y-%m-%d"))
    write_atomically(path, result.encode("utf-8"), mode=mode)
    before, after = document.metadata.version, next_version(document)
    for promotion in promotions:
        falsifier, status = promotion.falsifier, promotion.status
        was = falsifier.status or "without status"
        print_line(f"{document.path}: {falsifier.id} {was} to {status}, version {before} to {after}")
        kept = next((block for block in falsifier.evidence if block.key == block_name(status)), None)
        if kept is not None and promotion.link:
            print_line(
                f"aprtui: {falsifier.id}: its {kept.key} stays as it is; the changelog names {promotion.link}", err=True
            )
