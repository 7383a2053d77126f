from __future__ import annotations

import os
from pathlib import Path

import pytest

from aprtui.config import config_path, read_config
from aprtui.model.discovery import places
from aprtui.model.discovery.places import FoundModel, found_models
from tests.model.discovery.conftest import Machine
from tests.model.gguf_files import model_file


def found(reports: list[str] | None = None) -> dict[str, FoundModel]:
    """All models but the embedded one, by name."""
    reported: list[str] = [] if reports is None else reports
    models = found_models(read_config(config_path()), reported.append)
    assert [model.name for model in models if model.place == "embedded"] == ["demo-qwen2-q4km"]
    return {model.name: model for model in models if model.place != "embedded"}


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_models_are_found_in_every_place_that_tools_keep_them_in(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.configure('[models]\nfolders = ["~/gguf", "beside"]\n')
    home, cache = machine.home, machine.home / ".cache"
    put(machine.work / "here.gguf")
    put(machine.work / "models" / "kept.apr")
    put(home / "gguf" / "a" / "b" / "deep.gguf")
    put(home / "beside" / "near.gguf")
    put(home / ".apr" / "models" / "own.apr")
    put(cache / "pacha" / "models" / "Qwen--Q-q4_k_m.gguf")
    put(cache / "huggingface" / "flat.gguf")
    put(home / ".lmstudio" / "models" / "someone" / "Some-GGUF" / "studio-Q4_K_M.gguf")
    put(cache / "llama.cpp" / "ggml-org_gemma_gemma.gguf")
    machine.ollama_pull(put(machine.work / "notes" / "raw", "ollama"), "qwen2.5/0.5b")
    assert {name: model.place for name, model in found().items()} == {
        "here": "working directory", "kept": "./models", "deep": "configured", "near": "configured", "own": "apr",
        "Qwen--Q-q4_k_m": "apr", "flat": "Hugging Face", "qwen2.5:0.5b": "Ollama", "studio-Q4_K_M": "LM Studio",
        "ggml-org_gemma_gemma": "llama.cpp",
    }  # fmt: skip


def test_variables_of_the_tools_move_their_caches(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "l"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "h"))
    monkeypatch.setenv("OLLAMA_MODELS", str(machine.home / ".ollama" / "models"))
    put(tmp_path / "l" / "moved.gguf")
    put(tmp_path / "h" / "models--o--r" / "snapshots" / "abc" / "hub.gguf")
    assert set(found()) == {"moved", "hub"}


def test_hugging_face_models_have_the_names_of_their_repositories_and_each_blob_is_listed_once(
    machine: Machine,
) -> None:
    hub = machine.home / ".cache" / "huggingface" / "hub" / "models--Qwen--Qwen2.5-GGUF"
    blob = put(hub / "blobs" / "abcdef")
    for revision in ("1", "2"):
        link = hub / "snapshots" / revision / "q4" / "qwen-q4_k_m.gguf"
        link.parent.mkdir(parents=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    models = found()
    assert set(models) == {"qwen-q4_k_m"}
    assert models["qwen-q4_k_m"].names == ("qwen-q4_k_m", "Qwen/Qwen2.5-GGUF/qwen-q4_k_m")


def test_lm_studio_says_where_its_models_are(machine: Machine, tmp_path: Path) -> None:
    put(machine.home / ".lmstudio-home-pointer", f"{tmp_path / 'studio'}\n")
    put(tmp_path / "studio" / "settings.json", f'{{"downloadsFolder": "{tmp_path / "large"}"}}')
    put(tmp_path / "large" / "publisher" / "Repo" / "m.gguf")
    assert found()["m"].names == ("m", "publisher/Repo/m")


def test_ollama_names_are_those_that_ollama_takes(machine: Machine) -> None:
    for number, (name, host) in enumerate(
        [
            ("phi3/latest", "registry.ollama.ai/library"),
            ("mine/7b", "registry.ollama.ai/someone"),
            ("Repo-GGUF/Q4_K_M", "hf.co/org"),
        ]
    ):
        machine.ollama_pull(put(machine.work / "raw", str(number)), name, host)
    assert [model.names for model in found().values()] == [
        ("hf.co/org/Repo-GGUF:Q4_K_M",), ("phi3:latest", "phi3"), ("someone/mine:7b",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "document",
    [
        "{", "[]", '{"layers": 3}', '{"layers": [3, {}]}', "[" * 100_000,
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../../etc/passwd"}]}',
        f'{{"layers": [{{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:{"0" * 64}"}}]}}',
    ],
)  # fmt: skip
def test_a_manifest_that_names_no_model_is_reported_and_leads_nowhere(machine: Machine, document: str) -> None:
    machine.ollama_manifest("registry.ollama.ai/library/bad/latest", document)
    reports: list[str] = []
    assert found(reports) == {}
    assert len(reports) == 1 and "bad/latest" in reports[0] and "pull" in reports[0]


def test_a_split_model_is_found_once_by_its_first_part(machine: Machine) -> None:
    parts = model_file().write_parts(machine.work, 3, "big")
    assert found()["big"].path == Path(parts[0].name)
    parts[0].unlink()
    assert found()["big"].path == Path(parts[1].name)


def test_links_in_circles_and_to_nowhere_pipes_and_locked_folders_stop_nothing(machine: Machine) -> None:
    folder = machine.home / ".apr" / "models"
    put(folder / "good.gguf")
    (folder / "dangling.gguf").symlink_to(folder / "gone")
    (folder / "circle.gguf").symlink_to(folder / "circle.gguf")
    (folder / "around").symlink_to(folder)
    (folder / "folder.gguf").mkdir()
    os.mkfifo(folder / "pipe.gguf")
    (folder / "locked").mkdir(mode=0)
    (folder / "linked").symlink_to(put(machine.home / "elsewhere" / "far.gguf").parent)
    reports: list[str] = []
    assert set(found(reports)) == {"good", "far"}
    assert all("locked: cannot be looked into" in report for report in reports)


def test_there_is_an_end_to_looking(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        put(machine.home / ".apr" / "models" / str(number) / f"{number}.gguf")
    monkeypatch.setattr(places, "MOST_FOLDERS", 3)
    reports: list[str] = []
    assert set(found(reports)) == {"0", "1"}
    assert len(reports) == 3 and all("after 3 other folders" in report for report in reports)


def test_nothing_deeper_than_is_said_and_nothing_hidden_is_found(machine: Machine) -> None:
    folder = machine.home / ".apr" / "models"
    put(folder / "1" / "2" / "3" / "4" / "deep.gguf")
    put(folder / "1" / "2" / "3" / "4" / "5" / "deeper.gguf")
    put(folder / ".hidden.gguf")
    put(folder / ".cache" / "other.gguf")
    assert set(found()) == {"deep"}
