"""What the app remembers between runs stays out of the user's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.model.discovery import places


@pytest.fixture(autouse=True)
def own_state_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("APRTUI_STATE_DIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_models_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has in its caches changes no test."""
    monkeypatch.setattr(places, "found_models", lambda config: ())
