"""Random Unicode texts that tokenizers find hard, reproducible from a seed.

A text is a run of pieces: words of many scripts, emoji sequences, combining marks, whitespace runs, line ends, digit
runs, contractions, punctuation, code, literal special tokens, and single code points drawn from all of assigned
Unicode. Surrogates never occur, so every text has a UTF-8 form.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence

SCRIPT_RANGES: tuple[tuple[int, int], ...] = (
    (0x61, 0x7A),  # Latin
    (0xC0, 0x17F),  # Latin with diacritics
    (0x391, 0x3C9),  # Greek
    (0x410, 0x44F),  # Cyrillic
    (0x5D0, 0x5EA),  # Hebrew
    (0x620, 0x64A),  # Arabic
    (0x904, 0x939),  # Devanagari
    (0xE01, 0xE30),  # Thai
    (0x10D0, 0x10F0),  # Georgian
    (0x3041, 0x3096),  # Hiragana
    (0x4E00, 0x4E80),  # Han
    (0xAC00, 0xAC80),  # Hangul syllables
    (0x1D400, 0x1D433),  # mathematical letters, outside the BMP
)
EMOJI = ("😀", "🚀", "👩‍💻", "👍🏽", "🇩🇪", "❤️", "1️⃣", "🏴‍☠️", "☃", "✓")
COMBINING = ("e\u0301", "n\u0303", "a\u0308\u0323", "\u0301", "क्षि", "กำ", "שָׁ", "نَّ", "각")
WHITESPACE = (
    " ", "  ", "   ", "       ", "\t", "\t\t", " \t ", "\u00a0", "\u3000", "\u2003", "\u200b", "\ufeff", "\u0085",
)  # fmt: skip
LINE_ENDS = ("\n", "\r\n", "\n\n", "\r", " \n", "\n ", "\n\t", "\n\n\n", "\u2028", "  \n  \n")
CONTRACTIONS = (
    "'s", "'S", "'t", "'re", "'RE", "'Ve", "'m", "'ll", "'LL", "'d", "’s", "'ſ", "don't", "I'll", "we've", "'x",
)  # fmt: skip
PUNCTUATION = (
    ".", ",", "...", "!?", "::", "->", "==", "$", "^", "+", "~", "|", "`", "«", "»", "。", "、", "¿", "—", "(", "})",
    '"',
)  # fmt: skip
CODE = (
    "def f(x):", "    return x", "#include <a.h>", "x[i]+=1;", "https://a.b/c?d=1&e=%20", "\\n", "0x1F", "snake_case",
    "CamelCase",
)  # fmt: skip
DIGITS = "0123456789"
OTHER_NUMBERS = ("٠١٢", "½", "Ⅷ", "²", "৪২", "①", "𝟘𝟙")


def assigned_code_points() -> list[int]:
    """Every code point this Python's Unicode tables call assigned, without surrogates and private use."""
    return [c for c in range(0x20, 0xE0200) if unicodedata.category(chr(c)) not in {"Cn", "Cs", "Co"}]


class TextGenerator:
    """Draws random texts; the same seed and literals give the same texts on the same Python version."""

    def __init__(self, seed: int, literals: Sequence[str]) -> None:
        self.random = random.Random(seed)
        self.literals = tuple(literals)
        self.assigned = assigned_code_points()

    def word(self) -> str:
        low, high = self.random.choice(SCRIPT_RANGES)
        letters = "".join(chr(self.random.randint(low, high)) for _ in range(self.random.randint(1, 7)))
        return self.random.choice((letters, letters, letters.capitalize(), letters.upper()))

    def digits(self) -> str:
        if self.random.random() < 0.2:
            return self.random.choice(OTHER_NUMBERS)
        return "".join(self.random.choice(DIGITS) for _ in range(self.random.randint(1, 9)))

    def piece(self) -> str:
        kind = self.random.random()
        if kind < 0.34:
            return self.random.choice(("", " ", " ")) + self.word()
        if kind < 0.44:
            return self.digits()
        if kind < 0.50:
            return chr(self.random.choice(self.assigned))
        if kind < 0.56:
            return self.random.choice(self.literals)
        families = (EMOJI, COMBINING, WHITESPACE, LINE_ENDS, CONTRACTIONS, PUNCTUATION, CODE)
        return self.random.choice(self.random.choice(families))

    def text(self) -> str:
        return "".join(self.piece() for _ in range(self.random.randint(1, 14)))

    def texts(self, count: int) -> list[str]:
        return [self.text() for _ in range(count)]
