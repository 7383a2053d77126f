"""Files of prompts whose completions are known to hold something.

    prompts:
      - prompt: "What is 2+2?"
        chat: ["4", "four"]       # one of these, in the answer through the chat template
        tokens: 32
      - prompt: "def fib(n):"
        raw: ["return"]           # one of these, in the plain continuation

Each prompt is run both ways; without `raw` or `chat` that completion must only be text that does not run in circles.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprtui.errors import UsageError
from aprtui.resources import embedded_model
from aprtui.yaml_file import fields_of, read_settings, texts_of

TOKENS = 48
_MOST_TOKENS = 128


@dataclass(frozen=True, slots=True)
class GoldenPrompt:
    """One prompt; `raw` and `chat` are texts of which a completion must hold one, none where anything goes."""

    text: str
    raw: tuple[str, ...]
    chat: tuple[str, ...]
    tokens: int


QUESTIONS = (
    GoldenPrompt("What is 2+2?", (), ("4", "four", "Four"), TOKENS),
    GoldenPrompt("Hello", (), ("Hello", "Hi", "hello", "help", "Hey"), TOKENS),
)
"""For a model that answers; the questions and what they expect are those of `apr qa`."""

CODE = (
    GoldenPrompt("def fib(n):", ("return", "if ", "while ", "for "), (), TOKENS),
    GoldenPrompt("class Stack:\n", ("def ", "self", '"""'), (), TOKENS),
    GoldenPrompt("for name in sorted(os.listdir(path)):\n", ("name", "path"), (), TOKENS),
)
"""For the embedded model, which continues Python and answers nothing."""


def golden_prompts(path: Path | None, model: Path) -> tuple[GoldenPrompt, ...]:
    """The prompts of `path`, or those that fit the model. Raises `UsageError`, naming file and field."""
    if path is None:
        return CODE if model.resolve() == embedded_model().resolve() else QUESTIONS
    document = fields_of(read_settings(path), path, "the file", {"prompts"}, needed={"prompts"})
    entries = document["prompts"]
    if not isinstance(entries, list):
        raise UsageError(f"{path}: prompts: expected a list")
    return tuple(_prompt(entry, path, f"prompts[{index}]") for index, entry in enumerate(entries))


def _prompt(entry: Any, path: Path, where: str) -> GoldenPrompt:
    fields = fields_of(entry, path, where, {"prompt", "raw", "chat", "tokens"}, needed={"prompt"})
    (text,) = texts_of([fields["prompt"]], path, f"{where}.prompt", "a text")
    tokens = fields.get("tokens", TOKENS)
    if type(tokens) is not int or not 1 <= tokens <= _MOST_TOKENS:
        raise UsageError(f"{path}: {where}.tokens: expected 1 … {_MOST_TOKENS}, found {tokens!r}")
    raw, chat = (
        tuple(texts_of(fields.get(way, []), path, f"{where}.{way}", "a list of texts")) for way in ("raw", "chat")
    )
    return GoldenPrompt(text, raw, chat, tokens)
