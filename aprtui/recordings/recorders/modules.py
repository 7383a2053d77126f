"""Models as transformers runs them: a model file dequantised by our loader, or a folder of Hugging Face as it is."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprtui.errors import UnreadableError
from aprtui.model.digest import file_digest
from aprtui.model.model import load_model
from aprtui.oracle.transformers_model import AttentionKind, DataType, libraries, load


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """A module, the versions that run it, the SHA-256 of its weights, and the cache that it begins with (None: its
    own)."""

    module: Any
    version: str
    sha256: str
    cache: Any


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder as Hugging Face has them."""
    return os.path.isfile(path / "config.json")


def load_module(path: Path, kind: DataType, attention: AttentionKind, threads: int | None) -> LoadedModule:
    """The model at `path`, with all its weights in `kind`.

    A folder is taken as it is, of any architecture of transformers itself: weights from safetensors only, no code of
    its own. Raises `UnreadableError` where it cannot be loaded, `EngineError` where torch or transformers is missing.
    """
    if path.is_dir():
        return _of_folder(path, kind, attention, threads)
    model = load_model(path)
    loaded = load(model, kind, attention, threads)
    _, transformers = libraries()
    # It keeps the keys of all positions, also where layers have a window.
    options = {"config": loaded.module.config} if model.config.graph.recurrent else {}
    return LoadedModule(loaded.module, loaded.version, model.sha256(), transformers.DynamicCache(**options))


def _of_folder(path: Path, kind: DataType, attention: AttentionKind, threads: int | None) -> LoadedModule:
    torch, transformers = libraries()
    if threads:
        torch.set_num_threads(threads)
    digest = folder_digest(path)
    try:
        module = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, kind), attn_implementation=str(attention), local_files_only=True,
            use_safetensors=True, trust_remote_code=False,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UnreadableError(f"{path}: transformers cannot load it: {_first_line(error)}") from error
    version = f"{transformers.__version__} (torch {torch.__version__})"
    return LoadedModule(module.eval(), version, digest, None)


def folder_digest(path: Path) -> str:
    """SHA-256 of the weights of a folder. Raises `UnreadableError` for a folder without."""
    files = sorted(path.glob("*.safetensors"))
    if not is_folder(path) or not files:
        raise UnreadableError(f"{path}: expected a folder with config.json and *.safetensors")
    return file_digest(*files)


def folder_tokens(path: Path, text: str) -> list[int]:
    """The ids of a text by a folder's own tokenizer. Raises `UnreadableError` where it has none."""
    _, transformers = libraries()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UnreadableError(f"{path}: no tokenizer there ({_first_line(error)}): give ids with --tokens") from error
    found = [int(token) for token in tokenizer(text)["input_ids"]]
    if not found:
        raise UnreadableError(f"{path}: no tokenizer there that makes tokens of the prompt: give ids with --tokens")
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:120]
