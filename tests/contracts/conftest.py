"""The command line, run in this process, and a tiny model."""

from tests.cli.conftest import aprtui, tiny_model

__all__ = ["aprtui", "tiny_model"]
