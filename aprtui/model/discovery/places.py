"""Where models lie: folders of the user, and the caches of other tools.

Folders are those that `apr` looks into, in its order (`~/.apr/models`, `~/.cache/pacha/models`,
`~/.cache/huggingface`, `./models`), and the working directory, what the configuration names, and the caches of Hugging
Face (`huggingface_hub`: `hub/models--ORG--REPO/snapshots/REVISION/…`, links to blobs), Ollama (manifests that name
blobs by their digest), LM Studio (`models/PUBLISHER/REPO/FILE`) and llama.cpp (one folder of files).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aprtui.config import Config, expanded
from aprtui.model.open_file import SUFFIXES
from aprtui.model.split_files import model_stem, parts_there
from aprtui.resources import embedded_model

DEPTH = 4
"""Levels of folders below the root of a cache that are looked into."""

MOST_FOLDERS = 2000
"""Folders that are looked into in one place: a home directory must not keep the disk busy for ever."""

_MOST_MANIFEST_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_OLLAMA_HOST = "registry.ollama.ai"

Report = Callable[[str], None]
"""Told about folders and manifests that cannot be read, each in a line."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model file, not yet opened: its first part, where it is split.

    `names` are what it can be called, the shortest first. `place` is the kind of folder it was found in.
    """

    path: Path
    names: tuple[str, ...]
    place: str

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(slots=True)
class _Walk:
    """A walk through folders, links to folders included, each once."""

    report: Report
    seen: set[tuple[int, int]] = field(default_factory=set)

    def files(self, folder: Path, depth: int) -> Iterator[Path]:
        """Regular files in `folder` and `depth` levels below it, sorted by name; nothing hidden."""
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self.seen:
                return
            if len(self.seen) == MOST_FOLDERS:
                self.report(
                    f"{folder}: not looked into, after {MOST_FOLDERS} other folders: name it in [models] folders"
                )
                return
            self.seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                shown = (entry for entry in entries if not entry.name.startswith("."))
                listed = sorted(shown, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self.report(f"{folder}: cannot be looked into: {error.strerror or error}")
            return
        yield from (folder / entry.name for entry in listed if _is(entry.is_file))
        for entry in listed:
            if depth and _is(entry.is_dir):
                yield from self.files(folder / entry.name, depth - 1)


def _is(question: Callable[[], bool]) -> bool:
    """The answer of a directory entry; False for a link that leads nowhere or in a circle."""
    try:
        return question()
    except OSError:
        return False


def found_models(config: Config, report: Report = lambda _: None) -> tuple[FoundModel, ...]:
    """All model files on this machine, none of them opened: each once, in the order of the places.

    A file that several places have (as a link, or hard-linked) is listed in the first, with the names of all.
    """
    found: dict[object, FoundModel] = {}
    for model in _everywhere(config, report):
        try:
            status = model.path.stat()
        except OSError:
            continue
        key = (status.st_dev, status.st_ino)
        first = found.get(key, model)
        found[key] = FoundModel(first.path, tuple(dict.fromkeys((*first.names, *model.names))), first.place)
    return tuple(found.values())


def models_elsewhere(config: Config) -> tuple[FoundModel, ...]:
    """All but the embedded one."""
    return tuple(model for model in found_models(config) if model.path != embedded_model())


def _everywhere(config: Config, report: Report) -> Iterator[FoundModel]:
    home = expanded("~")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    yield from _in_folder(Path(), "working directory", report, depth=0)
    yield from _in_folder(Path("models"), "./models", report, depth=0)
    for folder in config.folders:
        yield from _in_folder(folder, "configured", report)
    yield from _in_folder(home / ".apr" / "models", "apr", report)
    yield from _in_folder(cache / "pacha" / "models", "apr", report)
    yield from _in_hugging_face(cache, report)
    yield from _in_ollama(home, report)
    yield from _in_lm_studio(home, cache, report)
    yield from _in_folder(_llama_cpp_cache(home, cache), "llama.cpp", report)
    embedded = embedded_model()
    yield FoundModel(embedded, (embedded.stem,), "embedded")


def _in_folder(folder: Path, place: str, report: Report, depth: int = DEPTH) -> Iterator[FoundModel]:
    for path in _models(_Walk(report).files(folder, depth)):
        yield FoundModel(path, (model_stem(path),), place)


def _models(files: Iterator[Path]) -> Iterator[Path]:
    """The model files among `files`; of those that are split, the first part that is there."""
    for path in files:
        if path.suffix in SUFFIXES and parts_there(path)[0] == path:
            yield path


def _in_hugging_face(cache: Path, report: Report) -> Iterator[FoundModel]:
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    hub = Path(named) if named else home / "hub"
    yield from _in_folder(home, "Hugging Face", report, depth=0)
    for path in _models(_Walk(report).files(hub, DEPTH)):
        repository, *inner = path.relative_to(hub).parts
        if repository.startswith("models--") and inner[0] == "snapshots":
            name = "/".join(repository.split("--")[1:])
            yield FoundModel(path, (model_stem(path), f"{name}/{model_stem(path)}"), "Hugging Face")


def _in_lm_studio(home: Path, cache: Path, report: Report) -> Iterator[FoundModel]:
    """The folder that LM Studio's settings name, else its own, today's and the earlier one."""
    pointer = _text(home / ".lmstudio-home-pointer")
    own = Path(pointer.strip()) if pointer else home / ".lmstudio"
    settings = _json(own / "settings.json")
    chosen = settings.get("downloadsFolder") if isinstance(settings, dict) else None
    folders = [Path(chosen)] if isinstance(chosen, str) and chosen else []
    for folder in dict.fromkeys((*folders, own / "models", cache / "lm-studio" / "models")):
        for path in _models(_Walk(report).files(folder, DEPTH)):
            repository = "/".join(path.relative_to(folder).parts[:-1])
            names = (model_stem(path), *([f"{repository}/{model_stem(path)}"] if repository else []))
            yield FoundModel(path, names, "LM Studio")


def _llama_cpp_cache(home: Path, cache: Path) -> Path:
    named = os.environ.get("LLAMA_CACHE")
    if named:
        return Path(named)
    return (home / "Library" / "Caches" if sys.platform == "darwin" else cache) / "llama.cpp"


def _in_ollama(home: Path, report: Report) -> Iterator[FoundModel]:
    """Models by the manifests: `manifests/HOST/NAMESPACE/MODEL/TAG` names a blob by its digest."""
    named = os.environ.get("OLLAMA_MODELS")
    folders = [Path(named)] if named else [home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
    for folder in folders:
        manifests = folder / "manifests"
        for manifest in _Walk(report).files(manifests, DEPTH + 1):
            parts = manifest.relative_to(manifests).parts
            if len(parts) < 3:
                continue
            digest = _ollama_digest(manifest)
            if digest is None:
                report(f"{manifest}: no manifest of Ollama's that names a model: pull the model again")
                continue
            blob = folder / "blobs" / f"sha256-{digest}"
            names = _ollama_names(*parts)
            if _is(blob.is_file):
                yield FoundModel(blob, names, "Ollama")
            else:
                report(f"{manifest}: its blob {blob.name[:19]}… is not there: pull {names[0]} again")


def _ollama_digest(manifest: Path) -> str | None:
    """The digest of the model that a manifest names; None for anything else, models of other formats among it."""
    document = _json(manifest)
    layers = document.get("layers") if isinstance(document, dict) else None
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict) and layer.get("mediaType") == _OLLAMA_MODEL:
            match = _DIGEST.fullmatch(str(layer.get("digest")))
            return None if match is None else match[1]
    return None


def _ollama_names(host: str, *rest: str) -> tuple[str, ...]:
    """As Ollama calls it: `MODEL:TAG`, before it the namespace and the host where they are not Ollama's own."""
    *namespace, model, tag = rest
    shown = [] if host == _OLLAMA_HOST else [host]
    shown += [] if host == _OLLAMA_HOST and namespace == ["library"] else namespace
    name = "/".join((*shown, model))
    return (f"{name}:{tag}", name) if tag == "latest" else (f"{name}:{tag}",)


def _json(path: Path) -> object:
    text = _text(path)
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _text(path: Path) -> str:
    """The text of a small file; empty where it cannot be read or is none."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_MANIFEST_BYTES:
            return ""
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
