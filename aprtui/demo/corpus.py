"""The training text: the standard library's own source (PSF licence), filtered, and split by content hash.

The split depends on nothing but each file's bytes, so that it is the same on every machine with the same Python, and a
file that exists twice can never be on both sides.
"""

from __future__ import annotations

import ast
import hashlib
import io
import random
import re
import sysconfig
import textwrap
import tokenize
from dataclasses import dataclass
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)

HELD_OUT_ONE_IN = 20
EXCERPT_SHARE = 0.25
BARE_EXCERPT_SHARE = 0.5
CHAT_SHARE = 0.5
_MAX_FILE_BYTES = 400_000
_MAX_LINE_LENGTH = 400
_MAX_ANSWER_LINES = 40

# Character tables, documentation dumps, machine-specific build settings and third-party packages are not Python prose;
# tests are, but the same few lines again and again (60 % of the whole, which xz packs to 1.2 bits per byte).
_DROPPED_DIRECTORIES = frozenset(
    ("site-packages", "__pycache__", "encodings", "pydoc_data", "data", "test", "tests", "idle_test")
)
_DROPPED_PREFIXES = ("_sysconfigdata", "test_")
_GENERATED = re.compile(r"(?i)auto-?generated|generated (by|from|automatically)|do not edit")


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """One source file: its path relative to the library's root (with `/`), and its text."""

    path: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the UTF-8 bytes, as hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Split:
    """The two sides of the corpus, each sorted by path; no text is on both."""

    train: tuple[CorpusDocument, ...]
    held_out: tuple[CorpusDocument, ...]


def standard_library() -> Path:
    """Folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def collect(root: Path) -> list[CorpusDocument]:
    """Read every usable `.py` file below `root`, sorted by path, each distinct text once."""
    documents: dict[str, CorpusDocument] = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _DROPPED_DIRECTORIES.intersection(relative.parts) or relative.name.startswith(_DROPPED_PREFIXES):
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        document = CorpusDocument(relative.as_posix(), text.replace("\r\n", "\n"))
        if is_plain_source(document.text):
            documents.setdefault(document.digest, document)
    return sorted(documents.values(), key=lambda document: document.path)


def is_plain_source(text: str) -> bool:
    """Whether `text` is handwritten Python: it parses, and is neither generated nor mostly a table of literals."""
    if not 40 <= len(text) <= _MAX_FILE_BYTES or "\0" in text or any(token in text for token in SPECIAL_TOKENS):
        return False
    lines = text.splitlines()
    if max(map(len, lines)) > _MAX_LINE_LENGTH or _GENERATED.search("\n".join(lines[:6])):
        return False
    if len(text.encode()) - len(text) > 0.02 * len(text):
        return False
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return _literal_characters(tree) <= 0.35 * len(text)


def _literal_characters(tree: ast.AST) -> int:
    """Characters in numbers, bytes and long strings that are not docstrings: what tables are made of."""
    total = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                total += len(node.value) if len(node.value) > 2000 else 0
            elif isinstance(node.value, (int, float, complex, bytes)):
                total += (node.end_col_offset or 0) - node.col_offset if node.end_lineno == node.lineno else 80
    return max(total, 0)


def split(documents: list[CorpusDocument]) -> Split:
    """Put about one file in `HELD_OUT_ONE_IN` aside, chosen by its content hash alone."""
    held_out = tuple(d for d in documents if int(d.digest[:8], 16) % HELD_OUT_ONE_IN == 0)
    train = tuple(d for d in documents if int(d.digest[:8], 16) % HELD_OUT_ONE_IN != 0)
    return Split(train, held_out)


def training_texts(documents: tuple[CorpusDocument, ...], seed: int, *, bare: bool = False) -> list[str]:
    """Texts between `END_OF_TEXT` marks: files, sometimes cut at top-level definitions, and chat turns made of them.

    The cuts let a text begin with a bare `def f(x):`, as a prompt does; the turns give the chat template a meaning, and
    are a share of those possible because their code repeats the files'. Files that are `bare` have no docstrings and
    comments, and are cut more often: code that follows on code.
    """
    generator = random.Random(seed)
    texts: list[str] = []
    for document in documents:
        text, share = (without_comments(document.text), BARE_EXCERPT_SHARE) if bare else (document.text, EXCERPT_SHARE)
        texts.extend(_cut(text, generator, share))
        texts.extend(turn for turn in chat_turns(document.text) if generator.random() < CHAT_SHARE)
    if bare:
        texts = [text for text in texts if text.strip()]
    generator.shuffle(texts)
    return texts


def without_comments(text: str) -> str:
    """`text` without its docstrings and comments; a body that was nothing else becomes `pass`."""
    lines: list[str | None] = list(text.splitlines())
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = token.line[:column].rstrip() or None
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or not node.body:
            continue
        first = node.body[0]
        if ast.get_docstring(node, clean=False) is None or first.end_lineno is None:
            continue
        before = (lines[first.lineno - 1] or "")[: first.col_offset]
        after = (lines[first.end_lineno - 1] or "").encode()[first.end_col_offset :]
        if before.strip() or after.strip():
            continue
        following = first.end_lineno
        while following < len(lines) and lines[following] == "":
            following += 1
        lines[first.lineno - 1 : following] = [None] * (following - first.lineno + 1)
        if len(node.body) == 1 and not isinstance(node, ast.Module):
            lines[first.lineno - 1] = before + "pass"
    bare = re.sub(r"\n{4,}", "\n\n\n", "\n".join(line for line in lines if line is not None)).strip("\n") + "\n"
    try:
        ast.parse(bare)
    except SyntaxError:
        return text
    return bare


def _cut(text: str, generator: random.Random, share: float) -> list[str]:
    """Cut before a share of the top-level definitions; the pieces join to `text` again."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in ast.parse(text).body:
        if isinstance(node, definition) and generator.random() < share:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
            if first > starts[-1]:
                starts.append(first)
    return ["".join(lines[a:b]) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]


def chat_turns(text: str) -> list[str]:
    """One ChatML exchange for each documented short function: its summary asks, its code without docstring answers."""
    lines = text.splitlines()
    turns: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef) or len(node.body) < 2 or node.end_lineno is None:
            continue
        summary = (ast.get_docstring(node) or "").strip().split("\n\n")[0].replace("\n", " ")
        statement = node.body[0]
        if not 12 <= len(summary) <= 200 or statement.end_lineno is None:
            continue
        if node.end_lineno - node.lineno > _MAX_ANSWER_LINES or node.body[1].lineno <= statement.end_lineno:
            continue
        kept = lines[node.lineno - 1 : statement.lineno - 1] + lines[statement.end_lineno : node.end_lineno]
        answer = textwrap.dedent("\n".join(kept))
        if not answer.startswith("def "):  # a string with unindented lines keeps the method from being dedented
            continue
        turns.append(chat_prompt(summary) + answer + TURN_END + "\n")
    return turns


def chat_prompt(request: str) -> str:
    """The ChatML text up to where the assistant answers `request`; equal to what the model's chat template renders."""
    return f"{TURN_START}user\n{request}{TURN_END}\n{TURN_START}assistant\n"
