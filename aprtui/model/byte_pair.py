"""Byte-level byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909; GPT-2's alphabet of 256 printable bytes)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from aprtui.errors import UnreadableError
from aprtui.model.vocabulary import Vocabulary

# Contractions are spelled out instead of `(?i:…)`, which would let `'ſ` match `'s`: llama.cpp does not fold case there.
_CONTRACTIONS = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS_AND_SPACE = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_QWEN2 = (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_WORDS_AND_SPACE}",)
_MARKED_WORDS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_QWEN35 = (rf"{_CONTRACTIONS}|{_MARKED_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACE}",)
_LLAMA3 = (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_WORDS_AND_SPACE}",)
# Words end where an ASCII capital follows another letter, as llama.cpp has it; gpt-oss itself goes by all of Unicode's.
_UPPER, _LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_WORDS = rf"{_BEFORE}{_UPPER}*{_LOWER}+(?:{_CONTRACTIONS})?|{_BEFORE}{_UPPER}+{_LOWER}*(?:{_CONTRACTIONS})?"
_GPT4O = (rf"{_WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",)
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}|{_OTHERS}",)
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
"""Letters with two cases, as DeepSeek lists them."""
# Without U+3000, which DeepSeek has among its marks: to llama.cpp, white space beyond ASCII is that and nothing else.
_MARKS = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3001\u3002"
_CJK = "\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff"
_DEEPSEEK = (
    r"[\r\n]",
    rf"\s?[{_CASED}]+",
    rf"\s?[{_MARKS}]+",
    r"\s+$",
    rf"(?:(?!\s)[{_CJK}])+",
    r"\p{N}+",
)
_KANA = "\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    rf"[{_KANA}]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    + _SPACE,
)
# The blocks that llama.cpp takes for Chinese. Unlike Kimi itself, it does not divide words where a capital follows a
# small letter.
_HAN = (
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf"
    "\U0002ceb0-\U0002ebef\uf900-\ufaff\U0002f800-\U0002fa1f"
)
_KIMI_K2 = (rf"[{_HAN}]+|{_BEFORE}(?:(?![{_HAN}])\p{{L}})+(?:{_CONTRACTIONS})?|\p{{N}}{{1,3}}|{_WORDS_AND_SPACE}",)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")

PATTERNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qwen2": _QWEN2,
        "qwen35": _QWEN35,
        "deepseek-r1-qwen": _QWEN2,
        "llama-bpe": _LLAMA3,
        "llama3": _LLAMA3,
        "llama-v3": _LLAMA3,
        "smaug-bpe": _LLAMA3,
        "chatglm-bpe": _LLAMA3,
        "glm4": _LLAMA3,
        "deepseek-llm": _DEEPSEEK,
        "deepseek-v3": _DEEPSEEK3,
        "kimi-k2": _KIMI_K2,
        "gpt-4o": _GPT4O,
        "gpt-2": (_GPT2,),
        "tekken": _TEKKEN,
        "smollm": (r"\p{N}", _GPT2),
        "default": _DEFAULT,
    }
)
"""Patterns by pre-tokenizer; each splits the pieces that the one before it left, into matches and what lies between."""

_WHOLE_WORDS_FIRST = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken", "glm4"})
"""Pre-tokenizers whose vocabularies take a piece that is a token as a whole, without the merges (`ignore_merges`)."""


def build_encoder(vocabulary: Vocabulary, merges: list[str], pre_tokenizer: str) -> Callable[[str], list[int]]:
    """A function from a text without special tokens to ids.

    Raises `UnreadableError` for an unknown pre-tokenizer or merges that do not fit the vocabulary.
    """
    from tokenizers import Regex, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    patterns = PATTERNS.get(pre_tokenizer)
    if patterns is None:
        raise UnreadableError(
            f"{vocabulary.origin}: tokenizer.ggml.pre is {pre_tokenizer[:40]!r}, supported are {', '.join(PATTERNS)}; "
            "give token ids instead of text"
        )
    ids = {text: token for token, text in enumerate(vocabulary.texts)}
    try:
        model = models.BPE(ids, _pairs(merges), ignore_merges=pre_tokenizer in _WHOLE_WORDS_FIRST)
    except Exception as error:  # The library raises bare exceptions.
        raise UnreadableError(
            f"{vocabulary.origin}: tokenizer.ggml.merges does not fit the vocabulary: {error}"
        ) from error
    library: Any = Library(model)
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])

    def encode(text: str) -> list[int]:
        ids: list[int] = library.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def _pairs(merges: list[str]) -> list[tuple[str, str]]:
    """Both sides of each merge; a side may itself begin with a space in foreign files, so the first is skipped."""
    pairs: dict[tuple[str, str], None] = {}
    for merge in merges:
        at = merge.find(" ", 1)
        if at > 0:
            pairs.setdefault((merge[:at], merge[at + 1 :]))
    return list(pairs)


@cache
def byte_of_character() -> Mapping[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the other 68 for `U+0100` and up, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}
    return MappingProxyType(alphabet)


def token_bytes(text: str) -> bytes:
    """The bytes that a token stands for; a text outside the byte alphabet stands for itself."""
    alphabet = byte_of_character()
    try:
        return bytes(alphabet[character] for character in text)
    except KeyError:
        return text.encode()
