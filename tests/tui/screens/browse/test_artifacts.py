"""What is found where, and what is not read again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from aprtui.model.discovery.places import FoundModel
from aprtui.model.model_file import ModelFile
from aprtui.resources import embedded_model
from aprtui.trace.manifest import Manifest, read_manifest
from aprtui.tui.screens.browse import artifacts
from aprtui.tui.screens.browse.artifacts import DEPTH, ArtifactKind, Finder
from aprtui.tui.screens.browse.contents import CaptureContents, read_contents
from aprtui.tui.screens.browse.facts import Facts, model_facts
from tests.compare.synthetic import write_capture
from tests.model.gguf_files import model_file
from tests.recordings.made import attention_recording, recorded


def test_captures_and_models_are_found_as_deep_as_told_and_hidden_folders_are_not_looked_into(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"abcd")
    for folder in (tmp_path / "one", deep, tmp_path.joinpath(*"abce", "f", "g"), tmp_path / ".hidden"):
        write_capture(folder)
    (tmp_path / "model.gguf").symlink_to(embedded_model())
    found = Finder().search([tmp_path]).artifacts
    assert [(entry.path.relative_to(tmp_path), entry.kind) for entry in found] == [
        (Path("a/b/c/d"), ArtifactKind.CAPTURE),
        (Path("one"), ArtifactKind.CAPTURE),
        (Path("model.gguf"), ArtifactKind.MODEL),
    ]
    assert len(deep.relative_to(tmp_path).parts) == DEPTH


def test_a_capture_given_twice_is_found_once_and_foreign_manifests_are_none(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "one")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "an app"}')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights.bin").write_bytes(bytes(10))
    assert [entry.path for entry in Finder().search([tmp_path, capture, tmp_path / "gone"]).artifacts] == [capture]


def test_recordings_are_told_from_other_graphs_and_large_ones_are_not_read_to_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = attention_recording(tmp_path / "r")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "graph.json").write_text('{"nodes": []}')
    (found,) = Finder().search([tmp_path]).artifacts
    assert (found.path, found.kind, found.tokens, found.files) == (recording, ArtifactKind.RECORDING, 4, 9)
    assert dict(found.facts)["engine"] == "mine 1"
    monkeypatch.setattr(artifacts, "MOST_GRAPH_BYTES", 100)
    (large,) = Finder().search([tmp_path]).artifacts
    assert (large.kind, large.files, large.problem) == (ArtifactKind.RECORDING, 0, "")
    (recording / "graph.json").write_text('{"format": "aprtui-recording"')
    monkeypatch.undo()
    (broken,) = Finder().search([tmp_path]).artifacts
    assert "not JSON" in broken.problem


def test_a_recording_without_a_stage_lists_its_ops(tmp_path: Path) -> None:
    recorded(tmp_path / "r", "SQR", np.ones((2, 4), np.float32), np.ones((2, 4), np.float32))
    (found,) = Finder().search([tmp_path]).artifacts
    *_, contents = read_contents(found, lambda: False)
    assert isinstance(contents, CaptureContents)
    assert not contents.capture.files
    assert [(node.node.op, stats.count if stats else 0) for node, stats in contents.others.items()] == [("SQR", 8)]


def test_captures_in_one_file_are_found_and_read(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "one")
    zipped = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", capture))
    (tmp_path / "other.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    (tmp_path / "broken.zip").write_bytes(b"PK")
    packed, plain = sorted(Finder().search([tmp_path]).artifacts, key=lambda entry: entry.path != zipped)
    assert (packed.path, packed.kind, packed.files) == (zipped, ArtifactKind.CAPTURE, plain.files)
    assert packed.bytes == zipped.stat().st_size
    assert Finder().search([zipped]).artifacts == (packed,)
    *_, contents = read_contents(packed, lambda: False)
    *_, expected = read_contents(plain, lambda: False)
    assert isinstance(contents, CaptureContents) and isinstance(expected, CaptureContents)
    assert contents.entries == expected.entries


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = write_capture(tmp_path / "one")
    finder = Finder()
    reads: list[Path] = []

    def counted(path: Path) -> Manifest | None:
        reads.append(path)
        return read_manifest(path)

    monkeypatch.setattr(artifacts, "read_manifest", counted)
    first = finder.search([tmp_path])
    assert finder.search([tmp_path]) == first and len(reads) == 1
    write_capture(capture, complete=False)
    os.utime(capture / "manifest.json", (1, 1))
    assert finder.search([tmp_path]).artifacts[0].complete is False


def test_there_is_an_end_to_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(6):
        write_capture(tmp_path / f"capture-{index}")
    monkeypatch.setattr(artifacts, "MOST_ARTIFACTS", 3)
    listing = Finder().search([tmp_path])
    assert len(listing.artifacts) == 3 and "there are more" in listing.left_out
    monkeypatch.setattr(artifacts, "MOST_FOLDERS", 0)
    assert "looked at 0 folders" in Finder().search([tmp_path]).left_out


def test_a_model_that_goes_while_it_is_read_is_a_problem_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(embedded_model().read_bytes())

    def removed(file: ModelFile) -> Facts:
        model.unlink()
        return model_facts(file)

    monkeypatch.setattr(artifacts, "model_facts", removed)
    (found,) = Finder().search([tmp_path]).artifacts
    assert found.problem == "cannot be read: No such file or directory"


def test_a_split_model_is_one_model_and_what_is_missing_is_said_until_it_is_there(tmp_path: Path) -> None:
    parts = model_file().write_parts(tmp_path, 3)
    finder = Finder()
    (whole,) = finder.search([tmp_path, parts[2]]).artifacts
    assert (whole.path, whole.bytes) == (parts[0], sum(path.stat().st_size for path in parts))
    assert whole.problem == "" and whole.layers == 2
    last = parts[2].read_bytes()
    parts[2].unlink()
    (broken,) = finder.search([tmp_path]).artifacts
    assert broken.problem == (
        "part 1 of 3 of a model; missing in its folder: model-00003-of-00003.gguf: fetch what is missing"
    )
    parts[2].write_bytes(last)
    assert finder.search([tmp_path]).artifacts[0].problem == ""
    parts[0].unlink()
    assert [found.path for found in finder.search([tmp_path]).artifacts] == parts[1:], "each says what is missing"


def test_models_elsewhere_are_listed_by_their_names_behind_those_here_each_once(tmp_path: Path) -> None:
    here = tmp_path / "here" / "m.gguf"
    here.parent.mkdir()
    here.symlink_to(embedded_model())
    blob = tmp_path / "sha256-0"
    blob.write_bytes(embedded_model().read_bytes())
    elsewhere = [
        FoundModel(here, ("m",), "working directory"), FoundModel(blob, ("demo:latest", "demo"), "Ollama"),
        FoundModel(tmp_path / "gone.gguf", ("gone",), "configured"),
    ]  # fmt: skip
    first, second = Finder().search([here.parent], models=elsewhere).artifacts
    assert (first.path, first.name) == (here, "")
    assert (second.path, second.name, second.problem, second.refusal) == (blob, "demo:latest", "", "")
    assert second.facts[:2] == (("file", str(blob)), ("found in", "Ollama")) and second.layers == 4


def test_a_model_that_cannot_be_run_says_why_and_its_tensors_can_be_looked_at(tmp_path: Path) -> None:
    file = model_file()
    file.metadata["general.architecture"] = "clip"
    file.write(tmp_path / "projector.gguf")
    (found,) = Finder().search([tmp_path]).artifacts
    assert found.problem == "" and found.refusal.startswith("general.architecture is 'clip'") and found.files > 10
