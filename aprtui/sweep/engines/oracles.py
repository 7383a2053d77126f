"""Engines of others that this program runs: `{oracle: transformers, dtype: bfloat16}`, `{oracle: llamacpp}`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from aprtui.engine.protocol import KvType
from aprtui.errors import EngineError
from aprtui.model.model import Model
from aprtui.oracle.llamacpp_capture import LlamaCppOptions, write_llamacpp_captures
from aprtui.oracle.requests import Evaluation
from aprtui.oracle.transformers_capture import TransformersOptions, write_transformers_captures
from aprtui.oracle.transformers_model import AttentionKind, DataType
from aprtui.progress import no_progress
from aprtui.sweep.engines.engine import CaptureJob, EngineKind, SweepEngine, token_text
from aprtui.sweep.fields import PlanField

_BYTES = {DataType.FLOAT32: 4, DataType.BFLOAT16: 2, DataType.FLOAT16: 2}


@dataclass(frozen=True, slots=True)
class TransformersEngine:
    """transformers on the weights of the model file."""

    kind: DataType = DataType.FLOAT32
    attention: AttentionKind = AttentionKind.EAGER
    decode_from: int | None = None

    @property
    def gpus(self) -> int:
        return 0

    def identity(self) -> str:
        return _versions("torch", "transformers")

    def require_usable(self, model: Model, where: str) -> None:
        """What transformers cannot load is told by the capture itself: that takes torch."""

    def weight_bytes(self, model: Model) -> int:
        return model.size + _BYTES[self.kind] * sum(w.rows * w.columns for w in model.weights.values())

    def capture(self, job: CaptureJob, directory: Path) -> None:
        options = TransformersOptions(self.kind, self.attention, job.threads)
        write_transformers_captures(job.model, {directory: _evaluation(job, self.decode_from)}, options, no_progress)

    def by_hand(self, model: Path, tokens: tuple[int, ...], directory: str) -> str:
        words = ["--dtype", self.kind, "--attention", self.attention]
        return _by_hand("hf", model, tokens, directory, words, self.decode_from)


@dataclass(frozen=True, slots=True)
class LlamaCppEngine:
    """llama.cpp on the processor."""

    kv: KvType = KvType.F16
    flash_attention: bool = False
    repack: bool = True
    decode_from: int | None = None

    @property
    def gpus(self) -> int:
        return 0

    def identity(self) -> str:
        return _versions("llama-cpp-python")

    def require_usable(self, model: Model, where: str) -> None:
        """What llama.cpp cannot load is told by the capture itself."""

    def weight_bytes(self, model: Model) -> int:
        return 2 * model.size if self.repack else model.size

    def capture(self, job: CaptureJob, directory: Path) -> None:
        options = LlamaCppOptions(
            self.kv, flash_attention=self.flash_attention, threads=job.threads, repack=self.repack
        )
        write_llamacpp_captures(job.model, {directory: _evaluation(job, self.decode_from)}, options, no_progress)

    def by_hand(self, model: Path, tokens: tuple[int, ...], directory: str) -> str:
        words = ["--kv-type", self.kv, "--flash-attention", "on" if self.flash_attention else "off"]
        words += [] if self.repack else ["--no-repack"]
        return _by_hand("llamacpp", model, tokens, directory, words, self.decode_from)


def _evaluation(job: CaptureJob, decode_from: int | None) -> Evaluation:
    return Evaluation(job.tokens, job.text, decode_from or len(job.tokens))


def _by_hand(
    oracle: str, model: Path, tokens: tuple[int, ...], directory: str, words: list[str], decode_from: int | None
) -> str:
    words += [] if decode_from is None else ["--decode-from", str(decode_from)]
    prompt = ["--tokens", token_text(tokens)]
    return shlex.join(["aprtui", "oracle", oracle, str(model), *prompt, *words, "--out", directory])


def _versions(*packages: str) -> str:
    try:
        return ", ".join(f"{name} {version(name)}" for name in packages)
    except PackageNotFoundError as error:
        raise EngineError(f"{error.name} is not installed: pip install 'aprtui[oracle]'") from error


def _read(fields: Mapping[str, PlanField]) -> SweepEngine:
    oracle = fields["oracle"].choice(*_FIELDS)
    for name, field in fields.items():
        if name not in ("oracle", *_FIELDS[oracle]):
            raise field.error(f"{oracle} has no such field: there are {', '.join(_FIELDS[oracle])}")
    decode_from = fields["decode_from"].whole() if "decode_from" in fields else None
    if oracle == "transformers":
        return TransformersEngine(
            DataType(fields["dtype"].choice(*DataType)) if "dtype" in fields else DataType.FLOAT32,
            AttentionKind(fields["attention"].choice(*AttentionKind)) if "attention" in fields else AttentionKind.EAGER,
            decode_from,
        )
    return LlamaCppEngine(
        KvType(fields["kv"].choice(*KvType)) if "kv" in fields else KvType.F16,
        fields["flash_attention"].truth() if "flash_attention" in fields else False,
        fields["repack"].truth() if "repack" in fields else True,
        decode_from,
    )


_FIELDS = {
    "transformers": ("dtype", "attention", "decode_from"),
    "llamacpp": ("kv", "flash_attention", "repack", "decode_from"),
}

ORACLE = EngineKind("oracle", ("oracle", *dict.fromkeys(name for names in _FIELDS.values() for name in names)), _read)
