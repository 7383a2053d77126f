"""A machine of its own: a home directory, caches and a configuration that hold what a test puts there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Machine:
    """`home` is the home directory, `work` the working directory."""

    home: Path
    work: Path

    def configure(self, text: str) -> None:
        (self.home / "config.toml").write_text(text)

    def ollama_pull(self, model: Path, name: str, host: str = "registry.ollama.ai/library") -> Path:
        """What `ollama pull` leaves of a model called `MODEL/TAG`: manifest and blob."""
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        folder = self.home / ".ollama" / "models"
        blob = folder / "blobs" / f"sha256-{digest}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(model.read_bytes())
        layers = [
            {"mediaType": "application/vnd.ollama.image.license", "digest": f"sha256:{'1' * 64}", "size": 1},
            {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": 1},
        ]
        self.ollama_manifest(f"{host}/{name}", {"schemaVersion": 2, "layers": layers})
        return blob

    def ollama_manifest(self, name: str, document: Mapping[str, object] | str) -> None:
        path = self.home / ".ollama" / "models" / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path / "home", tmp_path / "work")
    found.home.mkdir()
    found.work.mkdir()
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "OLLAMA_MODELS", "LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(found.home))
    monkeypatch.setenv("APRTUI_CONFIG", str(found.home / "config.toml"))
    monkeypatch.chdir(found.work)
    return found


@pytest.fixture(scope="session")
def tiny_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A valid two-layer model with random weights."""
    from tests.model.gguf_files import write_model

    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf").read_bytes()
