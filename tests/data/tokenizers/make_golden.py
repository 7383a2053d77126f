"""Writes llama.cpp's own token ids for hard texts, one JSON file a vocabulary.

    python -m tests.data.tokenizers.make_golden --vocabs LLAMA_CPP/models [--out FOLDER]

needs `llama-cpp-python`, `gguf` and the vocabulary-only files of llama.cpp's `models` folder (in llama-cpp-python's
source distribution: `vendor/llama.cpp/models`). Those are too large to keep, so their JSON names them by file name and
SHA-256; the small vocabularies beside this script are answered for as well.

Each JSON file: `vocabulary`, `sha256`, `engine`, `origin`, `groups` and `pieces`. A group has a `name`, the flags
`add_special` (begin-of-sequence token as the file says) and `parse_special` (control tokens in the text count as
such), and `cases` of `text` and `ids`. `pieces` are `[id, hex]`: the bytes that one token adds to the output, special
tokens as their text. Surrogates never occur in texts.

Left out: texts with a token that the file calls normal and llama.cpp takes for a control token because of its spelling
(`</s>` in the vocabulary of qwen2). There `tokenizers` disagrees with llama.cpp, and follows the file.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp

from tests.data.tokenizers.random_texts import TextGenerator

SMALL_ORIGIN = "made by make_vocabularies.py"
LARGE_ORIGIN = "llama.cpp models/ (MIT licence) as carried by the source distribution of llama-cpp-python 0.3.36"
LARGE = ("qwen2", "qwen35", "llama-bpe", "gpt-2", "llama-spm")
VECTOR_SEPARATOR = "\n__ggml_vocab_test__\n"
MARKERS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>",
    "<|start_header_id|>user<|end_header_id|>", "<s>", "</s>", "<unk>", "<think>", "</think>", "<tool_call>",
    "<|im_start", "<0x41>", "[INST]", "▁", "▁▁", "[PAD2559]",
)  # fmt: skip
EDGE_TEXTS = (
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\t\n \n", " " * 17, "\n" * 9, "a", " a",
    "  a", "a ", "a  ", "a \n b", "hello world", "hello  world", " hello", "\n hello", "\nhello", " \n\n hello",
    "hello\n\n\nworld  \n", "1", "12", "123", "1234", "12345", "123456789012", " 123", "3.14159", "x1y22z333",
    "don't I'LL WE'Ve it's'S", "'s", " 's", "''s", "’s", "'ſ", "İstanbul", "ﬁ", "\u00a0", "a\u00a0b",
    "\u3000全角", "a\u2028b", "a\u0085b", "\u200b", "\ufeffBOM", "a\u00adb", "\x01\x7f", "e\u0301", "\u0301",
    "क्षि", "שָׁלוֹם", "السَّلام", "ไทยกำ", "한국어 각", "日本語テキスト。", "中文，标点！", "👩‍💻👍🏽🇩🇪",
    "1️⃣❤️", "𝒳𝟘", "\ue000", "\U0010ffff", "Việt", " Cửa Việt", " unreachable", "unreachable", "日本語",
    " страница", "<|im_start|>user\nhi<|im_end|>\n", "a<s>b </s> c", "<s><s>", " <think> x</think>\n",
    "<|endoftext|> a", "a <|endoftext|>", "<|im_start|", "<|IM_START|>", "<0x41><0xFF>", "▁a▁▁b", "[PAD2559]",
    "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n", "a=b;c!=d?e:f//g",
    "...!!!???", "$^+=~|`<>",
)  # fmt: skip


class Vocabulary:
    """llama.cpp's tokenizer for one GGUF file."""

    def __init__(self, path: Path) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self.path = path
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp does not load this vocabulary")
        self.handle = llama_cpp.llama_model_get_vocab(self.model)

    def ids(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        buffer = (llama_cpp.llama_token * (len(data) + 16))()
        count = llama_cpp.llama_tokenize(self.handle, data, len(data), buffer, len(buffer), add_special, parse_special)
        assert count >= 0, text
        return list(buffer[:count])

    def piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(1024)
        count = llama_cpp.llama_token_to_piece(self.handle, token, buffer, len(buffer), 0, True)
        assert count >= 0, token
        return buffer.raw[:count]

    def reinterpreted(self) -> list[str]:
        """Tokens that are normal in the file and that llama.cpp takes for control tokens all the same."""
        fields = gguf.GGUFReader(self.path).fields
        tokens, kinds = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.token_type"].contents()
        control = [llama_cpp.llama_vocab_is_control(self.handle, token) for token in range(len(tokens))]
        return [
            text
            for text, kind, taken in zip(tokens, kinds, control, strict=True)
            if taken and kind == gguf.TokenType.NORMAL
        ]


def group(
    vocabulary: Vocabulary, name: str, texts: Iterable[str], add_special: bool, parse_special: bool
) -> dict[str, Any]:
    cases = [{"text": text, "ids": vocabulary.ids(text, add_special, parse_special)} for text in texts]
    return {"name": name, "add_special": add_special, "parse_special": parse_special, "cases": cases}


def published_vectors(vocabulary: Vocabulary) -> dict[str, Any]:
    """The `.inp` and `.out` files that llama.cpp ships beside a vocabulary, held against its answers."""
    texts = Path(f"{vocabulary.path}.inp").read_bytes().decode().split(VECTOR_SEPARATOR)
    expected = [[int(word) for word in line.split()] for line in Path(f"{vocabulary.path}.out").read_text().split("\n")]
    vectors = group(vocabulary, "published_vectors", texts, add_special=False, parse_special=False)
    for case, ids in zip(vectors["cases"], expected, strict=False):
        assert case["ids"] == ids, f"{vocabulary.path}: llama.cpp disagrees with its own vector for {case['text']!r}"
    return vectors


def sampled_pieces(vocabulary: Vocabulary, count: int, generator: TextGenerator) -> list[tuple[int, str]]:
    """Bytes of some tokens: all special and byte tokens of a small vocabulary, and a random sample."""
    kinds = gguf.GGUFReader(vocabulary.path).fields["tokenizer.ggml.token_type"].contents()
    special = [i for i, kind in enumerate(kinds) if kind not in (gguf.TokenType.NORMAL, gguf.TokenType.UNUSED)]
    normal = [i for i, kind in enumerate(kinds) if kind == gguf.TokenType.NORMAL]
    chosen = sorted({*special[:300], *generator.random.sample(normal, count)})
    return [(token, vocabulary.piece(token).hex()) for token in chosen]


def golden(path: Path, origin: str, random_count: int, seed: int) -> dict[str, Any]:
    vocabulary, generator = Vocabulary(path), TextGenerator(seed, MARKERS)
    left_out = vocabulary.reinterpreted()
    edges = [text for text in EDGE_TEXTS if not any(token in text for token in left_out)]
    texts = [text for text in generator.texts(random_count) if not any(token in text for token in left_out)]
    marked = [text for text in texts if any(marker in text for marker in MARKERS)][: random_count // 3]
    groups = [published_vectors(vocabulary)] if Path(f"{path}.inp").exists() else []
    groups += [
        group(vocabulary, "edge_texts", edges, add_special=False, parse_special=True),
        group(vocabulary, "edge_texts_plain", edges, add_special=False, parse_special=False),
        group(vocabulary, "edge_texts_with_begin", edges[::4], add_special=True, parse_special=True),
        group(vocabulary, "random_texts", texts, add_special=False, parse_special=True),
        group(vocabulary, "random_texts_plain", marked, add_special=False, parse_special=False),
    ]
    return {
        "vocabulary": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "origin": origin,
        "engine": f"llama.cpp through llama-cpp-python {llama_cpp.__version__}",
        "groups": groups,
        "pieces": sampled_pieces(vocabulary, 200, generator),
    }


def write_json(path: Path, record: dict[str, Any]) -> None:
    """One case a line, ASCII only, so that a change of one answer is a change of one line."""
    head = {key: value for key, value in record.items() if key not in ("groups", "pieces")}
    lines = [json.dumps(head)[:-1] + ', "groups": [']
    for number, entry in enumerate(record["groups"]):
        title = {key: value for key, value in entry.items() if key != "cases"}
        lines.append((", " if number else "") + json.dumps(title)[:-1] + ', "cases": [')
        lines.append(",\n".join(json.dumps(case, separators=(",", ":")) for case in entry["cases"]))
        lines.append("]}")
    lines.append('], "pieces": ' + json.dumps(record["pieces"], separators=(",", ":")) + "}")
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabs", type=Path, required=True, help="folder with llama.cpp's ggml-vocab-*.gguf files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=20261121)
    options = parser.parse_args()
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    small = [(path, SMALL_ORIGIN, 400) for path in sorted(Path(__file__).parent.glob("small-*.gguf"))]
    large = [(options.vocabs / f"ggml-vocab-{name}.gguf", LARGE_ORIGIN, 300) for name in LARGE]
    for path, origin, random_count in small + large:
        record = golden(path, origin, random_count, options.seed)
        target = options.out / f"{path.stem}.json"
        write_json(target, record)
        cases = sum(len(entry["cases"]) for entry in record["groups"])
        print(f"{target.name}  {cases} texts  {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
