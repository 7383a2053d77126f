"""Harnesses of model files: headers, tensors, vocabulary, chat template, and texts for the tokenizer."""

from __future__ import annotations

from pathlib import Path

from aprtui.conversion.check import check_model
from aprtui.model.facts import described, model_facts
from aprtui.model.model import load_model
from aprtui.model.tensor_table import summarise, tensor_table
from aprtui.model.tokenizer import StreamDecoder, Tokenizer
from aprtui.model.vocabulary import VocabularyKind
from aprtui.model.weight_types import WeightType
from aprtui.progress import no_progress
from tests.fuzz.harness import Harness, Target, replace_file
from tests.model.apr_files import apr_model
from tests.model.gguf_files import ModelFile, model_file, sentence_piece_vocabulary, write_model

_KEYS = (
    b"general.architecture", b"block_count", b"embedding_length", b"attention.head_count", b"rope.scaling.type",
    b"tokenizer.ggml.tokens", b"tokenizer.ggml.merges", b"tokenizer.chat_template", b"split.count",
    b"general.alignment", b"yarn", b"llama", b"qwen2", b"qwen3moe", b"gemma3", b"gpt-oss", b"qwen35",
    b"{% for m in messages %}",
    b"{{ 1 / 0 }}",
)  # fmt: skip
_MESSAGES = ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})


def small_model(**options: object) -> ModelFile:
    sizes = {"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "ffn": 32, "weight_type": WeightType.Q8_0}
    return model_file(**{**sizes, **options})  # type: ignore[arg-type]  # options of a test's own helper


def sentence_piece_model() -> ModelFile:
    file = small_model(architecture="llama", tokenizer=False)
    pieces = ["▁", "▁a", "def", *(chr(ord("a") + number) for number in range(26))]
    file.metadata |= sentence_piece_vocabulary({piece: -1.0 - rank for rank, piece in enumerate(pieces)})
    return file


def read_model(path: Path) -> None:
    """All that is done with a file before it is run."""
    for info in tensor_table(path):
        if info.stored is not None and info.stored.rows < 64:
            summarise(info)
    model = load_model(path)
    list(described(model_facts(model)))
    check_model(model, None, no_progress)
    model.pieces([0, 1, 2])
    if model.chat_template is not None:
        model.chat_template.render(_MESSAGES)
    model.tokenizer.encode("def f(n): <|im_end|>\n")


def _gguf(folder: Path) -> Target:
    path = folder / "model.gguf"
    files = (
        small_model(), small_model(architecture="qwen3", head_dim=32), sentence_piece_model(),
        small_model(architecture="gemma3", layers=2), small_model(architecture="qwen3moe", tokenizer=False),
    )  # fmt: skip
    samples = tuple(file.write(path).read_bytes() for file in files)
    return Target(lambda data: read_model(replace_file(path, data)), samples, _KEYS)


def _apr(folder: Path) -> Target:
    path = folder / "model.apr"
    model = apr_model(write_model(folder / "model.gguf", layers=1, hidden=32, heads=2, kv_heads=1, ffn=32))
    return Target(lambda data: read_model(replace_file(path, data)), (model.content(),), _KEYS)


def _tokenizer(folder: Path) -> Target:
    tokenizers = tuple(
        load_model(file.write(folder / f"{number}.gguf")).tokenizer
        for number, file in enumerate((small_model(), sentence_piece_model()))
    )

    def run(data: bytes) -> None:
        text = data.decode(errors="surrogateescape")
        for tokenizer in tokenizers:
            _encode(tokenizer, text)

    samples = (b"def f(n):\n    return n + 1\n", "naïve ▁ 東京 \U0001f600".encode(), b"<|im_start|>user\nhi<|im_end|>")
    return Target(run, samples, (b"<|im_start|>", b"<0x0A>", b"<s>", "▁".encode(), b"\xf0\x9f", b"\xcc\x81"))


def _encode(tokenizer: Tokenizer, text: str) -> None:
    """Ids of a text, whose text is the same again where the vocabulary has all bytes."""
    ids = tokenizer.encode(text, special=False, bos=False)
    decoder = StreamDecoder(tokenizer)
    streamed = "".join(map(decoder.push, ids)) + decoder.finish()
    assert streamed == text or tokenizer.vocabulary.kind is VocabularyKind.SENTENCE_PIECE, "another text"
    tokenizer.encode(text)
    tokenizer.has_special(text)


MODEL_FILES = (Harness("gguf", _gguf), Harness("apr", _apr), Harness("tokenizer", _tokenizer))
