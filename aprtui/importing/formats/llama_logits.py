"""`llama-debug --save-logits`, and the same of the model conversion scripts of llama.cpp for PyTorch.

`examples/debug/debug.cpp` and `examples/model-conversion/scripts/utils/common.py` of ggml-org/llama.cpp: a folder with
`llamacpp-MODEL.bin` (or `pytorch-MODEL.bin`), float32 logits of the last token, and `…-tokens.bin`, int32 token ids.
`…-embeddings.bin` is normalised, which no stage is.
"""

from __future__ import annotations

from pathlib import Path

from aprtui.errors import UnreadableError
from aprtui.importing.import_format import ImportFormat, PartChoice
from aprtui.importing.mapping import Piece, Rule, SourceAxis, TensorMapping
from aprtui.importing.raw_file import raw_tensor, whole_numbers
from aprtui.importing.source import Source
from aprtui.trace.graph.stage_graph import StageGraph

_PREFIXES = ("llamacpp-", "pytorch-")
_TOKENS = "-tokens.bin"
_EMBEDDINGS = "-embeddings.bin"


def _logits(path: Path) -> list[Path]:
    """The files of logits in a folder, or the one that `path` is, beside which the ids lie."""
    candidates = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return [
        file for file in candidates
        if file.name.startswith(_PREFIXES) and file.suffix == ".bin"
        and not file.name.endswith((_TOKENS, _EMBEDDINGS)) and _ids(file).is_file()
    ]  # fmt: skip


def _ids(file: Path) -> Path:
    return file.with_name(file.name.removesuffix(".bin") + _TOKENS)


def _recognises(path: Path) -> bool:
    return bool(_logits(path))


def _read(path: Path, choice: PartChoice, graph: StageGraph | None) -> tuple[Source, TensorMapping]:
    found = _logits(path)
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:4]) or "none"
        raise UnreadableError(f"{path}: expected one file of logits with its {_TOKENS}: {names}: name one of them")
    (file,) = found
    values = file.stat().st_size // 4
    if graph is not None and values != graph["lm_head"].width:
        raise UnreadableError(f"{file}: {values} logits, the model has {graph['lm_head'].width}: of another model")
    tensors = {"logits": raw_tensor(file, "logits", "F32", (values,))}
    engine = "llama.cpp" if file.name.startswith("llamacpp-") else "transformers"
    name = file.name.removesuffix(".bin").partition("-")[2]
    stage = "logit_softcap" if graph is not None and "logit_softcap" in graph else "lm_head"
    mapping = TensorMapping((Rule(stage, Piece("logits", axes=(SourceAxis.CHANNEL,))),))
    return Source(path, tensors, whole_numbers(_ids(file)), {"engine": engine, "model": name}), mapping


FORMAT = ImportFormat(
    "llama-logits", "llama-debug --save-logits: llamacpp-MODEL.bin beside llamacpp-MODEL-tokens.bin", _recognises, _read
)
