"""The command line, run in this process."""

from tests.cli.conftest import aprtui

__all__ = ["aprtui"]
