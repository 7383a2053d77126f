"""Captures of a model in a Hugging Face folder, as transformers loads it: no weights of a GGUF file take part.

Nothing of a folder is executed: its code is not loaded, and weights are read from `.safetensors` files only.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aprtui.capture import capture
from aprtui.capture.cache_argument import called_behind
from aprtui.errors import EngineError, UnreadableError, UsageError
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.digest import file_digest
from aprtui.oracle.requests import Evaluation, Work, require_evaluable
from aprtui.oracle.transformers_capture import TransformersOptions
from aprtui.oracle.transformers_model import libraries
from aprtui.oracle.written import write_provenance
from aprtui.progress import Progress
from aprtui.trace.manifest import Manifest, read_manifest, write_manifest

_CONFIG, _INDEX, _WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_LARGEST = 64 << 20
"""Bytes of a JSON file, of which the largest is the list of a model's tensors."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder with `config.json` and the files of its weights, whose class is one that we know."""

    path: Path
    class_name: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]

    @property
    def vocabulary(self) -> int:
        return int(self.config["vocab_size"])

    @property
    def context(self) -> int:
        return int(self.config["max_position_embeddings"])

    def encode(self, text: str, *, special: bool, chat: bool, system: str) -> list[int]:
        """Token ids by the tokenizer of the folder. Raises `UsageError` where it has none, or no chat template."""
        transformers = libraries()[1]
        # Of no vocabulary transformers makes an empty tokenizer.
        if not any((self.path / name).is_file() for name in _VOCABULARIES):
            raise UsageError(f"{self.path}: has no {', '.join(_VOCABULARIES)}: give the prompt as --tokens")
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                self.path, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, ImportError) as error:
            raise UsageError(
                f"{self.path}: no tokenizer that transformers reads: give the prompt as --tokens"
            ) from error
        if chat:
            messages = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": text})
            if not tokenizer.chat_template:
                raise UsageError(f"{self.path}: the model has no chat template: leave out --chat")
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        found = tokenizer(text, add_special_tokens=not chat, split_special_tokens=not (special or chat))
        return [int(token) for token in found["input_ids"]]


def open_folder(path: Path) -> ModelFolder:
    """The folder at `path`. Raises `UnreadableError` for a configuration or weights that are not as expected."""
    config = _json(path / _CONFIG)
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    known = [name for architecture in ARCHITECTURES.values() for name in architecture.transformers_classes]
    if name not in known:
        raise UnreadableError(f"{path / _CONFIG}: architectures is {names!r}, expected one of {', '.join(known)}")
    if config.get("quantization_config"):
        raise UnreadableError(f"{path / _CONFIG}: its weights are quantised, expected float weights: use that folder")
    for key in ("vocab_size", "max_position_embeddings"):
        if type(config.get(key)) is not int or config[key] < 1:
            raise UnreadableError(f"{path / _CONFIG}: {key} is {config.get(key)!r}, expected a whole number ≥ 1")
    return ModelFolder(path, str(name), config, _weights(path))


def _weights(path: Path) -> tuple[Path, ...]:
    names = [_WEIGHTS]
    if (path / _INDEX).exists():
        listed = _json(path / _INDEX).get("weight_map")
        names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise UnreadableError(f"{path / _INDEX}: weight_map: expected names of files in the same folder")
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise UnreadableError(
            f"{path / missing[0]}: is not there: expected weights as .safetensors; pickled ones are not read"
        )
    return tuple(path / name for name in names)


def _json(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
        found = json.loads(data) if len(data) <= _LARGEST else None
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: not JSON: expected a folder of Hugging Face") from error
    if not isinstance(found, dict):
        raise UnreadableError(f"{path}: expected a JSON object of at most {_LARGEST >> 20} MB")
    return found


def write_folder_captures(
    folder: ModelFolder, work: Work, options: TransformersOptions, progress: Progress, *, overwrite: bool = False
) -> dict[Path, Manifest]:
    """Run the model of `folder` and write what it computes; the manifests as written.

    Raises `UsageError` before anything is loaded if the request or a directory cannot be used, `EngineError` where
    torch or transformers is missing or refuses the folder.
    """
    require_evaluable(folder.context, work, overwrite)
    progress("loading", 0, 1)
    module = _load(folder, options)
    digest = file_digest(*folder.weights)
    return {
        directory: _capture(module, digest, evaluation, directory, progress, overwrite)
        for directory, evaluation in work.items()
    }


def _load(folder: ModelFolder, options: TransformersOptions) -> Any:
    torch, transformers = libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    broken = importlib.import_module("safetensors").SafetensorError
    try:
        module, report = getattr(transformers, folder.class_name).from_pretrained(
            folder.path, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            dtype=getattr(torch, options.kind), attn_implementation=str(options.attention), output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, broken) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EngineError(f"{folder.path}: transformers does not load it: {reason:.200}") from error
    lost = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report.get(kind, ())]
    if lost:
        raise EngineError(f"{folder.path}: its weights are not those of {folder.class_name}: {min(map(str, lost))}")
    return module.eval()


def _capture(
    module: Any, digest: str, evaluation: Evaluation, directory: Path, progress: Progress, overwrite: bool
) -> Manifest:
    torch, transformers = libraries()
    tokens, position = list(evaluation.tokens), 0
    is_hybrid = "linear_attention" in (getattr(module.config, "layer_types", None) or ())
    past = transformers.DynamicCache(**({"config": module.config} if is_hybrid else {}))
    with capture(module, directory, tokens=tokens, overwrite=overwrite), torch.no_grad():
        for step in evaluation.steps:
            chunk = torch.tensor([tokens[position : position + step]])
            called_behind(module, chunk, past)
            position += step
            progress("evaluating", position, len(tokens))
    manifest = read_manifest(directory)
    assert manifest is not None
    manifest = replace(
        manifest,
        model=replace(manifest.model, sha256=digest),
        text=evaluation.text,
        prompt_tokens=len(tokens),
        prefill_tokens=evaluation.prefill,
    )
    write_manifest(directory, manifest)
    write_provenance(directory, manifest)
    return manifest
