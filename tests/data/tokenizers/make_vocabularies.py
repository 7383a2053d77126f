"""Writes the seven small vocabulary-only GGUF files that the tokenizer tests run on.

    python -m tests.data.tokenizers.make_vocabularies [--out FOLDER] [--tokens 2560]

needs `tokenizers` and `gguf`. One file a tokenizer kind: byte-level BPE with the pre-tokenizers qwen2, qwen35,
llama-bpe, gpt-4o, tekken and default, and SentencePiece (`llama`). The training text is Python's own reference text
(`pydoc_data.topics`, PSF licence) and random words of many scripts. Each vocabulary holds what real ones hold and tests
forget: control tokens, user-defined tokens, unused padding, and (BPE) whole words that no merge reaches, which only
`ignore_merges` may use.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import gguf
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tests.data.tokenizers.random_texts import CODE, COMBINING, CONTRACTIONS, EMOJI, TextGenerator

UNREACHABLE_WORDS = ("Việt", " Cửa", " unreachable", "日本語", " страница")
USER_DEFINED = ("<think>", "</think>", "<tool_call>")
UNUSED_COUNT = 3
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MODERN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MARKED_SPLIT = (MODERN_SPLIT % 1).replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}")
# As the tokenizer.json of gpt-oss has it.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE, _BEHIND = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O_SPLIT = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+{_BEHIND}|{_BEFORE}{_UPPER}+{_LOWER}*{_BEHIND}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# As the tokenizer.json of Ministral 3 has it.
TEKKEN_SPLIT = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TokenType = gguf.TokenType


@dataclass(frozen=True, slots=True)
class BpeRecipe:
    """What tells one byte-level BPE vocabulary from another."""

    pre: str
    architecture: str
    training_split: str
    control: tuple[str, ...]


BPE_RECIPES = (
    BpeRecipe("qwen2", "qwen2", MODERN_SPLIT % 1, ("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
    BpeRecipe("qwen35", "qwen35", MARKED_SPLIT, ("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
    BpeRecipe(
        "llama-bpe",
        "llama",
        MODERN_SPLIT % 3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    BpeRecipe(
        "gpt-4o",
        "gpt-oss",
        GPT4O_SPLIT,
        ("<|startoftext|>", "<|return|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|call|>"),
    ),
    BpeRecipe("tekken", "mistral3", TEKKEN_SPLIT, ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")),
    BpeRecipe("default", "llama", GPT2_SPLIT, ("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
)


def training_lines(seed: int) -> list[str]:
    """English prose and code, then lines of random words whose frequencies fall off as 1/rank."""
    lines = [topics[name] for name in sorted(topics)]
    generator, picker = TextGenerator(seed, EMOJI + COMBINING), random.Random(seed)
    words = [generator.word() for _ in range(3000)] + list(EMOJI + COMBINING + CONTRACTIONS + CODE)
    picker.shuffle(words)
    weights = [1 / (rank + 8) for rank in range(len(words))]
    lines += [" ".join(picker.choices(words, weights, k=12)) for _ in range(6000)]
    lines += ["".join(picker.choices("0123456789", k=picker.randint(1, 6))) for _ in range(2000)]
    return lines


def byte_alphabet() -> dict[int, str]:
    """Byte → the printable character that stands for it in byte-level BPE vocabularies (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def with_common_letters(lines: list[str], count: int) -> list[str]:
    """Drops all but the `count` most frequent letters; the trainer's own limit breaks ties at random."""
    frequency = Counter("".join(lines))
    kept = set(sorted(frequency, key=lambda letter: (-frequency[letter], letter))[:count])
    return ["".join(letter for letter in line if letter in kept) for line in lines]


def trained_merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    return [(left, right) for left, right in pairs]


def write_vocabulary(
    path: Path, architecture: str, model: str, pre: str, entries: list[tuple[str, int]]
) -> gguf.GGUFWriter:
    """Starts the file with what all kinds share; the caller adds the rest and closes it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    writer.add_string("general.license", "MIT; trained in part on the Python documentation, PSF licence")
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([text for text, _ in entries])
    writer.add_token_types([kind for _, kind in entries])
    return writer


def close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def special_entries(control: tuple[str, ...], first_id: int) -> list[tuple[str, int]]:
    entries = [(text, int(TokenType.CONTROL)) for text in control]
    entries += [(text, int(TokenType.USER_DEFINED)) for text in USER_DEFINED]
    first_unused = first_id + len(entries)
    return entries + [(f"[PAD{first_unused + i}]", int(TokenType.UNUSED)) for i in range(UNUSED_COUNT)]


def make_bpe(recipe: BpeRecipe, path: Path, token_count: int, lines: list[str]) -> None:
    alphabet = byte_alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(recipe.training_split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    reserved = len(recipe.control) + len(USER_DEFINED) + UNUSED_COUNT + len(UNREACHABLE_WORDS)
    trainer = trainers.BpeTrainer(
        vocab_size=token_count - reserved, initial_alphabet=list(alphabet.values()), show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    merges = trained_merges(tokenizer)
    tokens = list(dict.fromkeys([alphabet[byte] for byte in range(256)] + [left + right for left, right in merges]))
    unreachable = ["".join(alphabet[byte] for byte in word.encode()) for word in UNREACHABLE_WORDS]
    tokens += [word for word in unreachable if word not in tokens]
    entries = [(token, int(TokenType.NORMAL)) for token in tokens] + special_entries(recipe.control, len(tokens))
    writer = write_vocabulary(path, recipe.architecture, "gpt2", recipe.pre, entries)
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_bos_token_id(len(tokens))
    writer.add_eos_token_id(len(tokens) + len(recipe.control) - 1)
    close(writer)


def make_sentencepiece(path: Path, token_count: int, lines: list[str]) -> None:
    """SentencePiece BPE as Llama 2 has it: scores are minus the merge rank, bytes stand in for unknown characters."""
    fixed = [("<unk>", int(TokenType.UNKNOWN)), ("<s>", int(TokenType.CONTROL)), ("</s>", int(TokenType.CONTROL))]
    fixed += [(f"<0x{byte:02X}>", int(TokenType.BYTE)) for byte in range(256)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    space_runs = ["▁" * width for width in (2, 4, 8)]
    reserved = len(fixed) + len(space_runs) + len(USER_DEFINED) + UNUSED_COUNT
    trainer = trainers.BpeTrainer(vocab_size=token_count - reserved, show_progress=False)
    tokenizer.train_from_iterator(with_common_letters(lines, 600), trainer)
    merged = list(dict.fromkeys(space_runs + [left + right for left, right in trained_merges(tokenizer)]))
    letters = sorted(token for token in tokenizer.get_vocab() if len(token) == 1)
    pieces = merged + letters
    entries = fixed + [(piece, int(TokenType.NORMAL)) for piece in pieces]
    specials = special_entries((), len(entries))
    scores = [0.0] * len(fixed) + [-float(rank) for rank in range(len(pieces))] + [0.0] * len(specials)
    writer = write_vocabulary(path, "llama", "llama", "default", entries + specials)
    writer.add_token_scores(scores)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    close(writer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--tokens", type=int, default=2560, help="vocabulary size")
    options = parser.parse_args()
    lines = training_lines(seed=20261121)
    for recipe in BPE_RECIPES:
        make_bpe(recipe, options.out / f"small-{recipe.pre}.gguf", options.tokens, lines)
    make_sentencepiece(options.out / "small-spm.gguf", options.tokens, lines)
    for path in sorted(options.out.glob("small-*.gguf")):
        print(f"{path.name}  {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
