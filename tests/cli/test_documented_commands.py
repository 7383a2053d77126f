"""No document and no help text tells a command that is refused; tests/documents executes those of blocks."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator

import click
import pytest

from aprtui.cli.main import COMMANDS, EXAMPLES, FIRST, cli
from tests.test_documents import DOCUMENTS, lines


def documented() -> Iterator[tuple[str, list[str]]]:
    """Each command of a block of code or of a span in any document, and its words."""
    for document in DOCUMENTS:
        if document.name == "extending.md":  # its commands call what it adds: tests/test_extending.py runs them
            continue
        blocks = "\n".join(line for _, line, code in lines(document) if code).replace("\\\n", " ")
        prose = "\n".join(line for _, line, code in lines(document) if not code)
        spans = [" ".join(span.split()) for span in re.findall(r"`(aprtui [a-z-][^`]*)`", prose)]
        for text in [line for line in blocks.splitlines() if line.strip().startswith("aprtui ")] + spans:
            with contextlib.suppress(ValueError):  # a quotation that goes on in the next line
                yield f"{document.name}: {text}", shlex.split(re.split(r" [|>;&]", text)[0], comments=True)[1:]


def leaves(group: click.Group = cli, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is no group, with the words that call it."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*before, name))
        else:
            yield (*before, name), command


def examples() -> Iterator[tuple[str, list[str]]]:
    """Those of `--help`, of the program and of each command."""
    texts = [text for group in (*EXAMPLES.values(), FIRST) for text in group]
    texts += [line[len("  aprtui ") :] for _, command in leaves() for line in (command.epilog or "").splitlines()[2:]]
    for text in dict.fromkeys(texts):
        yield text, shlex.split(re.split(r" [|>] ", text)[0])


def test_every_command_has_examples_of_its_own() -> None:
    assert list(EXAMPLES) == list(COMMANDS)
    for name, texts in EXAMPLES.items():
        assert texts[0].split()[0] == name
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        shown = command.get_help(click.Context(command, info_name=name)).splitlines()
        assert {f"    aprtui {text}" for text in texts} <= set(shown)
    for words, command in leaves():
        told = command.get_help(click.Context(command)).split("Examples:")
        assert len(told) == 2 and f"  aprtui {' '.join(words)}" in told[1], words


@pytest.mark.parametrize(("told", "least"), [(documented, 200), (examples, 40)], ids=["documents", "help"])
def test_every_command_that_is_told_is_one_that_the_program_takes(
    told: Callable[[], Iterator[tuple[str, list[str]]]], least: int
) -> None:
    """Its name, its options, and their values where those are of a list."""
    refused, count = [], 0
    for text, words in told():
        command: click.Command = cli
        context = click.Context(cli)
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(context, words.pop(0))
            if found is None:
                refused.append(text)
                break
            command = found
        else:
            count += 1
            refused += [f"{text}: {problem}" for problem in problems(command, words)]
    assert not refused, "\n".join(refused)
    assert count >= least


def problems(command: click.Command, words: list[str]) -> Iterator[str]:
    context = click.Context(command, **command.context_settings)
    try:
        given, _, _ = command.make_parser(context).parse_args(list(words))
    except click.NoSuchOption as error:
        yield error.format_message()
        return
    except click.BadOptionUsage:  # prose may name an option without its value
        return
    for parameter in command.params:
        values = given.get(parameter.name)
        for value in [] if values is None else values if isinstance(values, list) else [values]:
            if isinstance(parameter.type, click.Choice) and isinstance(value, str) and value.islower():
                try:
                    parameter.type.convert(value, parameter, context)
                except click.BadParameter as error:
                    yield error.format_message()
