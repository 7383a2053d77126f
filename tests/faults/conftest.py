"""A small model for commands that are run as processes."""

from __future__ import annotations

from tests.cli.conftest import aprtui as aprtui
from tests.cli.conftest import tiny_model as tiny_model
