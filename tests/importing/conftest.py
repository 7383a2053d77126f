"""The model and capture that dumps are made of, once for all tests."""

from __future__ import annotations

import pytest

from tests.cli.conftest import aprtui as aprtui
from tests.importing.dumps import Ours, ours


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return ours(tmp_path_factory.mktemp("qwen2"))
