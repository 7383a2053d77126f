"""The model file of a capture is found by digest, else by name; files that cannot be read are passed over."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.model import lookup
from aprtui.model.digest import file_digest
from aprtui.model.lookup import find_models
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
from aprtui.trace.manifest import ModelInfo


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A damaged file, one that is gone, and the embedded model under two names."""
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(100))
    for name in ("a", "b"):
        shutil.copy(embedded_model(), tmp_path / f"{name}.gguf")
    return [tmp_path / f"{name}.gguf" for name in ("damaged", "gone", "a", "b")]


@pytest.fixture
def wanted() -> ModelInfo:
    model = load_model(embedded_model())
    return ModelInfo(model.name, model.sha256(), model.architecture, model.quantization)


def test_a_digest_names_the_first_file_with_these_bytes(models: list[Path], wanted: ModelInfo) -> None:
    assert find_models(wanted, models) == (models[2],)
    assert find_models(replace(wanted, sha256="0" * 64), models) == (), "the same name, other weights"


def test_without_a_digest_all_files_of_the_name_and_architecture_are_candidates(
    models: list[Path], wanted: ModelInfo
) -> None:
    named = replace(wanted, sha256=None)
    assert find_models(named, [*models, models[2]]) == (models[2], models[3])
    assert find_models(replace(named, name="another"), models) == ()
    assert find_models(replace(named, architecture="llama4"), models) == ()


def test_models_of_another_architecture_are_not_hashed(
    models: list[Path], wanted: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def counted(*paths: Path) -> str:
        hashed.extend(paths)
        return file_digest(*paths)

    monkeypatch.setattr(lookup, "file_digest", counted)
    assert find_models(replace(wanted, architecture="llama4"), models) == () and not hashed
    assert find_models(wanted, models, cancelled=lambda: True) == () and not hashed
    assert find_models(wanted, models) and hashed == [models[2]]


def test_files_elsewhere_are_looked_at_last_and_hashed_only_where_they_have_the_name(
    models: list[Path], wanted: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def counted(*paths: Path) -> str:
        hashed.extend(paths)
        return file_digest(*paths)

    monkeypatch.setattr(lookup, "file_digest", counted)
    assert find_models(wanted, [models[2]], elsewhere=lambda: pytest.fail("looked elsewhere")) == (models[2],)
    hashed.clear()
    assert find_models(wanted, models[:2], elsewhere=lambda: models[1:]) == (models[2],) and hashed == [models[2]]
    hashed.clear()
    assert find_models(replace(wanted, name="another"), [], elsewhere=lambda: models) == () and not hashed
    assert find_models(replace(wanted, sha256=None), [], elsewhere=lambda: models) == tuple(models[2:])
