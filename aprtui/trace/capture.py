"""Reading capture directories, with a manifest or without.

A capture without a manifest is readable: what is inferred about it (its token count, from rows of `attn_softmax` that
sum to one) is marked as inferred, and what is unknown stays None.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.trace.address import Address, listed
from aprtui.trace.aprt import AprtError, AprtFile, is_aprt, read_aprt, trailing_bytes, value_count
from aprtui.trace.archive import is_archive, is_folder, is_single_file, members, read_whole
from aprtui.trace.graph.names import graph_from_names, known_names
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import ALIASES, ENTRY, MAX_LAYERS, Node, canonical_name
from aprtui.trace.graph.stage_graph import StageGraph, graph_for
from aprtui.trace.manifest import FILE_NAME, Manifest, ModelInfo, read_manifest, relative_path
from aprtui.trace.rank_parts import RANKS, RANKS_DIFFER, RankParts, parse_rank_parts

PROVENANCE = "_PROVENANCE.txt"
COMPLETE = "complete"
"""The key of a provenance that says whether the writer finished."""
INCOMPLETE = f"{COMPLETE}: false\n".encode()
"""A provenance of files that are still being written or removed."""
SUFFIXES = (".bin", ".aprt")
_SHOWN_NAMES = 8
_MOST_BYTES = 1 << 26
"""More than a provenance has of the longest context."""
_LAYER_DIRECTORY = re.compile(r"layer-(0|[1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class StageFile:
    """A stage file of a capture; `shape` is None where it is not known, `inferred` where no manifest states it.

    `node` is where the file itself says it belongs, which a mapping may overrule.
    """

    node: Node
    path: Path
    shape: tuple[int, ...] | None
    inferred: bool


@dataclass(frozen=True, slots=True)
class Capture:
    """A capture directory as found. `stale` files are not the manifest's own and are never compared."""

    path: Path
    manifest: Manifest | None
    graph: StageGraph
    files: Mapping[Node, StageFile]
    stale: tuple[Path, ...]
    tokens: tuple[int, ...] | None
    token_source: str | None
    token_count: int | None
    warnings: tuple[str, ...]
    provenance: Mapping[str, str] = field(default_factory=dict)
    """The lines of `_PROVENANCE.txt`, of a capture without a manifest."""
    copied: bool = False
    stored: Path | None = None
    """Where its files lie, where that is not `path`."""
    promised: frozenset[Node] = field(init=False, repr=False, compare=False)
    """The nodes that the manifest promises; without one, those whose files are there."""

    def __post_init__(self) -> None:
        # Made once: it is asked for at every stage, and there may be ten thousand.
        nodes = self.files if self.manifest is None else (info.node for info in self.manifest.files.values())
        object.__setattr__(self, "promised", frozenset(nodes))

    @classmethod
    def open(cls, path: Path, copied: bool = False) -> Capture:
        """Open the capture in directory or archive `path`; its values are mapped when they are read, or `copied`.

        A process that must survive a file that is being written again, as the app must, has them copied.
        A file or a folder in it that cannot be read costs its own stages: they are there, and reading them raises.
        Raises `UnreadableError` if there is no capture, or its manifest is broken.
        """
        with listed(path):
            return cls._opened(path, copied)

    @classmethod
    def _opened(cls, path: Path, copied: bool) -> Capture:
        try:
            if not is_folder(path):
                problem = "is not a directory" if path.exists() else "does not exist"
                raise UnreadableError(f"{path}: {problem}: expected a capture directory, or one as .zip or .tar")
            manifest = read_manifest(path)
            capture = _with_manifest(path, manifest) if manifest else _without_manifest(path, copied)
            capture = replace(capture, copied=copied)
        except OSError as error:
            raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
        if not capture.files and not manifest:
            raise UnreadableError(f"{path}: holds no capture: expected layer-<N>/<stage>.bin files or a manifest.json")
        return capture

    @property
    def folder(self) -> Path:
        """The folder or archive that its files lie in."""
        return self.stored or self.path

    @property
    def complete(self) -> bool | None:
        """Whether the writer finished; None where it does not say."""
        if self.manifest is not None:
            return self.manifest.complete
        return {"true": True, "false": False}.get(self.provenance.get(COMPLETE, ""))

    @property
    def model(self) -> ModelInfo | None:
        """The model that was run, as far as the writer said; its architecture is empty where only the name is known."""
        if self.manifest is not None:
            return self.manifest.model
        name = self.provenance.get("model")
        return ModelInfo(name, None, "", None) if name else None

    @property
    def pieces(self) -> tuple[str, ...] | None:
        """The texts of the tokens, one each; None where the manifest does not state one for every token."""
        pieces = None if self.manifest is None else self.manifest.pieces
        return pieces if pieces and self.tokens and len(pieces) == len(self.tokens) else None

    @property
    def rank_parts(self) -> Mapping[Node, RankParts]:
        """Which parts of stages are from which ranks, where several were put together."""
        return parse_rank_parts(self.provenance.get(RANKS, "")) if RANKS in self.provenance else {}

    @property
    def ranks_differ(self) -> str:
        """What is said of ranks whose copies part; empty where they agree, or where there are none."""
        return self.provenance.get(RANKS_DIFFER, "")

    def read(self, node: Node) -> AprtFile:
        """The stage file of `node`, checked against the manifest.

        Raises `KeyError` for a node without a file, `AprtError` for a broken file and for one that is not the
        manifest's. Bytes after the declared values are left to the caller (`AprtFile.trailing`).
        """
        own = self.files[node].node
        file = read_aprt(self.files[node].path, self.copied)
        if file.layer != own.layer and not (own == Node(0, ENTRY) and file.layer is None):
            raise AprtError(file.path, 4, f"header says layer {file.layer}, the file lies where {node} belongs")
        info = None if self.manifest is None else self.manifest.files[relative_path(node)]
        if info is not None and info.crc32 is not None and file.crc32() != info.crc32:
            raise AprtError(
                file.path, 0, f"CRC32 is {file.crc32():08x}, the manifest says {info.crc32:08x}: changed since the "
                "capture: capture again"
            )  # fmt: skip
        return file

    def values(self, node: Node) -> NDArray[np.float32]:
        """The values of `node`, read-only, in the shape of its file entry (1-D where that is unknown)."""
        entry = self.files[node]
        flat = self.read(node).values
        if entry.shape is None:
            return flat
        if flat.size != int(np.prod(entry.shape)):
            raise AprtError(
                entry.path, 8, f"header declares {flat.size} values, shape {list(entry.shape)} needs "
                f"{int(np.prod(entry.shape))}: the file is not the one that the manifest lists"
            )  # fmt: skip
        return flat.reshape(entry.shape)


def is_capture(path: Path) -> bool:
    """Whether `path` is read as it is: a stage file, a folder that holds a capture, an archive, or nothing at all."""
    if not path.is_dir():
        return not path.exists() or is_archive(path) or is_aprt(path)
    return holds_stages(path)


def holds_stages(folder: Path) -> bool:
    """Whether a folder has a manifest of ours, or files that are named as stages are."""
    return (folder / FILE_NAME).is_file() or next(claimed_files(folder), None) is not None


def claimed_files(path: Path) -> Iterator[tuple[Node, Path]]:
    """Files below `path` that the naming rule claims as stages, aliases included, in no particular order."""
    known = set(known_names())
    for directory, layer in _layer_directories(path):
        for file in _listed(directory):
            name = canonical_name(file.stem)
            if file.suffix in SUFFIXES and name in known and _is_there(file):
                yield Node(layer, name), file


def is_layer_directory(name: str) -> bool:
    """Whether a folder of this name in a capture holds the stages of a layer."""
    match = _LAYER_DIRECTORY.fullmatch(name)
    return match is not None and int(match.group(1)) < MAX_LAYERS


def _layer_directories(path: Path) -> Iterator[tuple[Path, int | None]]:
    yield path, None
    for child in _listed(path):
        if is_layer_directory(child.name) and is_folder(child):
            yield child, int(child.name.removeprefix("layer-"))


def _listed(directory: Path) -> list[Path]:
    """What is in a directory, sorted; nothing where it cannot be looked into or has gone."""
    try:
        return sorted(directory.iterdir())
    except NotADirectoryError:
        return members(directory) or []
    except OSError:
        return []


def _is_there(path: Path) -> bool:
    """Whether there is something that is meant as a file: also a folder in its place, or what cannot be looked at."""
    try:
        mode = path.stat().st_mode
    except NotADirectoryError:
        return is_single_file(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _with_manifest(path: Path, manifest: Manifest) -> Capture:
    files, missing = {}, []
    for name, info in manifest.files.items():
        if _is_there(path / name):
            files[info.node] = StageFile(info.node, path / name, info.row_shape, inferred=False)
        else:
            missing.append(name)
    listed = {path / name for name in manifest.files}
    stale = tuple(file for _, file in claimed_files(path) if file not in listed)
    warnings = [f"{path / name}: listed in the manifest, not there" for name in missing]
    if not isinstance(path, Address):  # a question for each file, where the manifest has their sizes
        warnings += _trailing_bytes(files.values())
    if not manifest.complete:
        warnings.append(f"{path}: the capture was not finished (its manifest says complete: false): capture again")
    return Capture(
        path, manifest, graph_for(manifest.graph), files, stale,
        manifest.tokens, "manifest", len(manifest.tokens), tuple(warnings),
    )  # fmt: skip


def _without_manifest(path: Path, copied: bool) -> Capture:
    found: dict[Node, Path] = {}
    duplicates: list[Path] = []
    for claimed, file in claimed_files(path):
        node = Node(0, ENTRY) if claimed == Node(None, ENTRY) else claimed
        if node in found and file.stem in ALIASES:
            duplicates.append(file)
        else:
            if node in found:
                duplicates.append(found[node])
            found[node] = file
    warnings = list(_add_closed_layers(path, found))
    layers = 1 + max((node.layer for node in found if node.layer is not None), default=-1)
    graph = graph_from_names({node.stage for node in found}, layers)
    provenance = read_provenance(path)
    tokens = provenance_tokens(provenance)
    stated = _stated_token_count(provenance)
    count = len(tokens) if tokens else stated or _inferred_token_count(found, graph, copied)
    warnings += _grouped(path, duplicates, "second files of a stage, not read")
    warnings += _unknown_files(path)
    files = {
        node: StageFile(node, found[node], _inferred_shape(found[node], node, graph, count), inferred=True)
        for node in graph.nodes
        if node in found
    }
    misplaced = [file for node, file in found.items() if node not in files]
    warnings += _grouped(path, misplaced, "files of stages that do not belong there, not read")
    if provenance.get(COMPLETE) == "false":
        warnings.append(f"{path}: the capture was not finished ({PROVENANCE} says complete: false): capture again")
    warnings += _trailing_bytes(files.values())
    return Capture(
        path, None, graph, files, (), tokens, PROVENANCE if tokens else None, count, tuple(warnings), provenance
    )


def _add_closed_layers(path: Path, found: dict[Node, Path]) -> Iterator[str]:
    """Add to `found` what lies in folders of layers that cannot be looked into, as in the other layers; say so."""
    if isinstance(path, Address):
        return  # who may look into what is no question of folders there
    names = sorted({file.name for node, file in found.items() if node.layer is not None})
    for directory, layer in list(_layer_directories(path)):
        try:
            if members(directory) is None:
                os.scandir(directory).close()
        except OSError as error:
            yield f"{directory}: cannot be looked into: {error.strerror or error}"
            for name in names:
                found[Node(layer, canonical_name(Path(name).stem))] = directory / name


def _trailing_bytes(files: Iterable[StageFile]) -> list[str]:
    found = [(file.path, _header_or_none(trailing_bytes, file.path)) for file in files]
    return [f"{path}: {extra} bytes after the declared values are ignored" for path, extra in found if extra]


def _unknown_files(path: Path) -> list[str]:
    known = set(known_names())
    unknown = [
        file
        for directory, _ in _layer_directories(path)
        for file in _listed(directory)
        if file.suffix in SUFFIXES and canonical_name(file.stem) not in known
    ]
    return _grouped(path, unknown, "files of no known stage, not read")


def _grouped(path: Path, files: Sequence[Path], what: str) -> list[str]:
    """One line for all `files` of a kind, by name: a capture of 80 layers may hold hundreds."""
    if not files:
        return []
    names = sorted({file.name for file in files})
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
    return [f"{path}: {len(files)} {what}: {shown}"]


def read_provenance(path: Path) -> dict[str, str]:
    """The `key: value` lines of `_PROVENANCE.txt` in a capture directory; none where there is no such file."""
    try:
        text = read_whole(path / PROVENANCE, _MOST_BYTES).decode(errors="replace")
    except (OSError, UnreadableError):
        return {}
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {key.strip(): value.strip() for key, colon, value in pairs if colon and value.strip()}


def provenance_tokens(provenance: Mapping[str, str]) -> tuple[int, ...] | None:
    """The token ids in lines of `_PROVENANCE.txt` (`tokens: [1, 2, 3]`), or None."""
    text = provenance.get("tokens", "")
    return tuple(map(int, re.findall(r"[0-9]+", text))) if re.fullmatch(r"\[?[0-9,\s]+\]?", text) else None


def _header_or_none(read: Callable[[Path], int], path: Path) -> int | None:
    """A number from the header of the stage file at `path`, or None where it cannot be read."""
    try:
        return read(path)
    except UnreadableError:
        return None


def _stated_token_count(provenance: Mapping[str, str]) -> int | None:
    """How many tokens `_PROVENANCE.txt` speaks of where it does not list them (`token_count: 7`), or None."""
    text = provenance.get("token_count", "")
    return int(text) if re.fullmatch("[1-9][0-9]{0,8}", text) else None


def _read_or_none(path: Path, copied: bool = False) -> AprtFile | None:
    """The stage file at `path`, or None where it cannot be read: reading its values raises the error."""
    try:
        return read_aprt(path, copied)
    except UnreadableError:
        return None


def _inferred_token_count(found: Mapping[Node, Path], graph: StageGraph, copied: bool) -> int | None:
    """T from an attention map of h·T² probabilities, whose rows sum to one: T = count / sum."""
    for node, path in found.items():
        if node.stage not in graph or graph[node.stage].op is not Op.SOFTMAX:
            continue
        file = _read_or_none(path, copied)
        if file is None:
            continue
        values = file.values
        total = float(values.sum(dtype=np.float64))
        if not np.isfinite(total) or total < 1:
            continue
        tokens = round(values.size / total)
        if tokens and values.size % tokens**2 == 0 and abs(total * tokens / values.size - 1) < 1e-3:
            return tokens
    return None


def _inferred_shape(path: Path, node: Node, graph: StageGraph, tokens: int | None) -> tuple[int, ...] | None:
    count = _header_or_none(value_count, path)
    if not tokens or not count:
        return None
    stage = graph[node.stage]
    if stage.is_attention_map:
        return (count // tokens**2, tokens, tokens) if count % tokens**2 == 0 else None
    if count % tokens:
        # Logits that do not divide by the tokens are those of the last position; anything else is not of this capture.
        return (1, count) if stage.of_last_position else None
    # Logits that do divide may still be one row: no other stage tells the vocabulary's size.
    return None if stage.of_last_position and tokens > 1 else (tokens, count // tokens)
