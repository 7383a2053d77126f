"""Chat templates: Jinja source from the model file, rendered in a sandbox set up as transformers sets up its own.

A template is foreign code. The sandbox has no access to the file system or to Python's internals and cannot change what
it is given; it can still loop for long, as any template can.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from aprtui.errors import UnreadableError, UsageError


class ChatTemplate:
    """The chat template of one model; `origin` names the file in errors."""

    def __init__(
        self, source: str, *, bos_token: str | None = None, eos_token: str | None = None, origin: str = "chat template"
    ) -> None:
        self.source = source
        self._tokens = {
            name: text for name, text in (("bos_token", bos_token), ("eos_token", eos_token)) if text is not None
        }
        self._origin = origin

    @cached_property
    def _template(self) -> Any:
        from jinja2 import TemplateError

        try:
            return _environment().from_string(self.source)
        except (TemplateError, RecursionError) as error:
            raise UnreadableError(f"{self._origin}: the chat template cannot be read: {_one_line(error)}") from error

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """The prompt for `messages`, each with `role` and `content`.

        Raises `UnreadableError` for a template that is no Jinja, and `UsageError` where the template refuses the
        messages (a role it does not know, roles in the wrong order) or fails on them.
        """
        from jinja2 import TemplateError

        template = self._template
        copies = [dict(message) for message in messages]
        try:
            text: str = template.render(
                messages=copies, add_generation_prompt=add_generation_prompt, tools=None, **self._tokens
            )
            return text
        except TemplateError as error:
            raise UsageError(f"{self._origin}: the chat template refuses the messages: {_one_line(error)}") from error
        except Exception as error:  # A template can divide by zero, index a None, recurse without end, …
            raise UsageError(
                f"{self._origin}: the chat template fails on the messages: {type(error).__name__}: {_one_line(error)}"
            ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _environment() -> Any:
    """Jinja's immutable sandbox with the options, filters and functions that chat templates are written for."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:  # fmt: skip
        # Jinja's own filter escapes HTML.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_extension()]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().astimezone().strftime(layout)
    return environment


def _generation_extension() -> type[Any]:
    """The tag `{% generation %}`, which marks what the assistant wrote for training and changes nothing here."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationTag(Extension):
        tags = {"generation"}  # noqa: RUF012 – jinja2 declares it as an instance attribute

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    return GenerationTag
