"""The capture that is made of a source: stage files, and `_PROVENANCE.txt` with what is known about them.

It has no manifest: another tool's files do not tell the dimensions of the model and what its engine rounds where. A
replay and a diff find out order, tokens and roundings by themselves.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aprtui.errors import EngineError, UnreadableError, printable
from aprtui.importing.planning import Plan, values_of
from aprtui.importing.source import Source
from aprtui.progress import Progress
from aprtui.trace.address import Address
from aprtui.trace.aprt import MAX_VALUES, output_error, write_aprt, write_atomically
from aprtui.trace.capture import INCOMPLETE, PROVENANCE
from aprtui.trace.delivery import delivered
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import relative_path
from aprtui.trace.writer import remove_capture, require_usable

_HEADROOM = 16 << 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What was written: nodes, bytes, the shape of the tokens, and what a person should know of it."""

    nodes: tuple[Node, ...]
    size: int
    tokens: tuple[int, ...] | None
    token_count: int | None
    notes: tuple[str, ...]


def write_import(
    source: Source,
    plan: Plan,
    directory: Path,
    facts: Mapping[str, str],
    progress: Progress,
    *,
    overwrite: bool = False,
) -> Imported:
    """Write the nodes of a plan as a capture. Raises `UsageError`, `UnreadableError` or `EngineError`."""
    if not plan.nodes:
        if plan.missing and plan.unused:
            names = ", ".join(repr(name)[:60] for name in plan.unused[:3])
            more = ", …" if len(plan.unused) > 3 else ""
            raise UnreadableError(
                f"{source.path}: no rule of the mapping finds its tensors: {plan.missing[0]}; there are {names}{more}: "
                "correct the names, or let --guess propose a mapping"
            )
        reasons = f": {plan.missing[0]}" if plan.missing else ""
        raise UnreadableError(f"{source.path}: holds no stage that is known{reasons}: give a mapping with --map")
    with new_capture(directory, overwrite) as folder:
        _require_room(plan, folder)
        return _write(source, plan, folder, facts, progress)


@contextmanager
def new_capture(directory: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write a capture into, whose files go to `directory` when all is done. Raises `UsageError` where that
    may not be replaced, `EngineError` where it cannot be written."""
    if isinstance(directory, Address):
        with delivered(directory, overwrite) as local:
            local.mkdir()
            yield local
        return
    require_usable(directory, overwrite)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as folder:
            yield Path(folder)
            _move(Path(folder), directory)
    except OSError as error:
        raise output_error(directory, error) from error


def _move(folder: Path, directory: Path) -> None:
    """Put the files of a capture that is whole in place of what `directory` holds of another.

    Its provenance comes last: until then it says that files are missing.
    """
    if directory.is_dir():
        remove_capture(directory)
    write_atomically(directory / PROVENANCE, INCOMPLETE)
    files = (path for path in folder.rglob("*") if path.is_file())
    for file in sorted(files, key=lambda path: (path.name == PROVENANCE, path)):
        target = directory / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)


def _write(source: Source, plan: Plan, directory: Path, facts: Mapping[str, str], progress: Progress) -> Imported:
    rows: Counter[int] = Counter()
    size = 0
    for number, (node, made) in enumerate(plan.nodes.items()):
        progress("importing", number, len(plan.nodes))
        values = values_of(node, made)
        if values.size > MAX_VALUES:
            raise UnreadableError(f"{source.path}: {node}: {values.size} values: a stage file holds {MAX_VALUES}")
        if values.ndim == 2:
            rows[values.shape[0]] += 1
        write_aprt(directory / relative_path(node), node.layer, values)
        size += 4 * values.size
    count = len(source.tokens) if source.tokens else (rows.most_common(1)[0][0] if rows else None)
    lines = dict(source.facts) | dict(facts)
    lines |= {"tokens": str(list(source.tokens))} if source.tokens else {}
    lines |= {"token_count": str(count)} if count else {}
    lines |= {"imported_from": str(source.path), "types": ", ".join(_types(plan))}
    text = "".join(f"{key}: {printable(value)}\n" for key, value in lines.items())
    write_atomically(directory / PROVENANCE, f"# a capture of another tool\n{text}".encode())
    return Imported(tuple(plan.nodes), size, source.tokens, count, (*source.notes, *_notes(plan)))


def _types(plan: Plan) -> list[str]:
    return sorted({tensor.element.name for made in plan.nodes.values() for tensor in made.names()})


def _require_room(plan: Plan, directory: Path) -> None:
    """Raise `EngineError` where the disk has no room for what the tensors hold."""
    needed = sum(4 * _count(tensor.shape) for made in plan.nodes.values() for tensor in made.names())
    existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed + _HEADROOM > free:
        raise EngineError(
            f"{directory}: the capture needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free: "
            "choose another directory"
        )


def _count(shape: Iterable[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _notes(plan: Plan) -> tuple[str, ...]:
    rounded = sum(
        any(tensor.element.name == "F64" for tensor in made.names()) for made in plan.nodes.values()
    )  # fmt: skip
    notes = [f"{rounded} stage tensors were float64 and are rounded to float32"] if rounded else []
    notes += plan.missing
    if plan.unused:
        shown = ", ".join(plan.unused[:4]) + (", …" if len(plan.unused) > 4 else "")
        notes.append(f"{len(plan.unused)} tensors that nothing maps to a stage: {shown}")
    return tuple(notes)
