"""What the commands of `aprtui contracts` share: which contracts are meant, and what is said of those unreadable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.errors import UnreadableError, printable

if TYPE_CHECKING:
    from aprtui.contracts.documents.document import Document

paths_argument = click.argument("paths", nargs=-1, metavar="[PATH…]", type=click.Path(path_type=Path))


def meant(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """The paths given; aprtui's own contracts where none is."""
    from aprtui.resources import contracts

    return paths or (contracts(),)


def read_documents(paths: tuple[Path, ...]) -> tuple[tuple[Document, ...], bool]:
    """The contracts that are meant and can be read, and whether some cannot: stderr says which.

    Raises `ContractError` for a folder without contracts.
    """
    from aprtui.contracts.documents.loading import contract_files
    from aprtui.contracts.documents.reader import read_document

    documents, broken = [], False
    for path in contract_files(meant(paths)):
        try:
            documents.append(read_document(path))
        except UnreadableError as error:
            click.echo(f"aprtui: {error}", err=True)
            broken = True
    return tuple(documents), broken


def say(line: str, *, err: bool = False) -> None:
    """Print a line that may hold words of a contract, which must not move the cursor."""
    click.echo(printable(line), err=err)
