"""`aprtui contracts`: what is claimed, whether it is well formed, and whether it holds."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

import click

SUBCOMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "validate": "Check that contracts are well formed, by the codes of pv validate.",
        "lint": "Find things that contracts name and that do not exist, and claims without evidence.",
        "check": "Judge what contracts claim on the captures at hand.",
        "status": "Say how far claims go, what evidence carries, and what waits for what.",
        "promote": "Raise the status of a falsifier as far as its evidence carries.",
        "diff": "Say what changed in meaning between two versions of a contract.",
    }
)
"""Each lives in `aprtui.cli.contracts.<name>` as `command`."""


class LazySubcommands(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None for an unknown name."""
        if cmd_name not in SUBCOMMANDS:
            return None
        command: click.Command = importlib.import_module(f"aprtui.cli.contracts.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUBCOMMANDS.items()))


@click.group(cls=LazySubcommands)
def command() -> None:
    """Contracts: what is claimed of an engine, by what evidence, and whether it still holds."""
