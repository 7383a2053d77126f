"""Groups of commands that are imported when they are called: `--help` of a group imports none of them."""

from __future__ import annotations

import difflib
import importlib
import keyword
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click


def listed(examples: Sequence[str]) -> str:
    """The end of a help text, which click leaves as it is."""
    return "\n".join(["\b", "Examples:", *(f"  aprtui {example}" for example in examples)])


class LazyGroup(click.Group):
    """A group whose commands live in `package`, each in the module of its name as `command` (`import` in `import_`).

    `summaries` are their help in one line, so that they can be listed without being imported; `examples` end the help
    of a command.
    """

    def __init__(
        self, *args: Any, package: str, summaries: Mapping[str, str],
        examples: Mapping[str, Sequence[str]] = MappingProxyType({}), **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **options)
        self._package, self._summaries, self._examples = package, summaries, examples

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._summaries:
            return None
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name.replace("-", "_")
        command: click.Command = importlib.import_module(f"{self._package}.{module}").command
        if cmd_name in self._examples:
            command.epilog = listed(self._examples[cmd_name])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; a word that is no command is answered with what was likely meant."""
        word = args[0] if args else ""
        if word and not word.startswith("-") and word not in self._summaries:
            raise click.UsageError(f"No such command {word!r:.80}.{self._likely(word)}", ctx)
        return super().resolve_command(ctx, args)

    def _likely(self, word: str) -> str:
        close = difflib.get_close_matches(word, self._summaries, 1)
        if close:
            return f" Did you mean {close[0]!r}?"
        return " To open a file, use 'open'" if "open" in self._summaries and os.path.exists(word) else ""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries.items()))
