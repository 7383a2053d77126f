"""Damage costs the stage it is in: it is owed an answer, and everything else is judged."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.survey import BrokenStage, survey
from aprtui.compare.verdict import Verdict, parse_tolerance
from aprtui.errors import UnreadableError
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import NODES, scaled, write_capture

STAGE = Node(1, "ffn_gate")


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 4),
    "a short header": lambda path: os.truncate(path, 6),
    "empty": lambda path: os.truncate(path, 0),
    "other bytes": lambda path: path.write_bytes(b"\xff" * 100),
    "a folder in its place": _as_folder,
    "another layer's": lambda path: path.write_bytes((path.parent.parent / "layer-2" / path.name).read_bytes()),
}


def compare(a: Path, b: Path, *tolerances: str, **options: Any) -> Comparison:
    given = DiffOptions(tolerances=tuple(map(parse_tolerance, tolerances)), **options)
    return compare_captures(Capture.open(a), Capture.open(b), given)


def close_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what is in `folder`, as to a user who may not enter it: root, as which tests run, may everywhere."""
    for module, name in ((os, "stat"), (os, "listdir"), (os, "scandir"), (os, "open"), (builtins, "open")):
        original = getattr(module, name)

        def refusing(path: Any, *rest: Any, original: Any = original, name: str = name, **options: Any) -> Any:
            inside = isinstance(path, str | Path) and folder.absolute() in Path(path).absolute().parents
            lists = name in ("listdir", "scandir") and isinstance(path, str | Path) and Path(path) == folder
            if inside or lists:
                raise PermissionError(13, "Permission denied", str(path))
            return original(path, *rest, **options)

        monkeypatch.setattr(module, name, refusing)


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_costs_its_stage_and_the_rest_is_judged(tmp_path: Path, how: str, manifest: bool) -> None:
    a = write_capture(tmp_path / "a", manifest=manifest)
    b = write_capture(tmp_path / "b", manifest=manifest)
    DAMAGE[how](b / "layer-1" / "ffn_gate.bin")
    for left, right, side in ((a, b, "B"), (b, a, "A")):
        found = compare(left, right, "rel_l2=0.1", tokens=None if manifest else (5, 3, 9, 1, 7))
        assert (found.verdict, found.compared, found.expected) == (Verdict.UNKNOWN, NODES - 1, NODES)
        (skip,) = found.skipped
        assert skip.node == STAGE and skip.damaged and f"({side})" in skip.reason and "ffn_gate.bin" in skip.reason
        assert f"1 of {NODES} expected stages could not be compared" in found.reasons


def test_what_fails_elsewhere_fails_beside_damage(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", edits={Node(2, "ffn_up"): scaled(2.0)})
    (b / "layer-1" / "ffn_gate.bin").write_bytes(b"")
    found = compare(a, b, "rel_l2=0.1")
    assert found.verdict is Verdict.FAIL
    assert found.first_divergence is not None and found.first_divergence.verdict.node == Node(2, "ffn_up")


def test_a_stage_that_may_be_missing_may_be_damaged(tmp_path: Path) -> None:
    a, b = write_capture(tmp_path / "a"), write_capture(tmp_path / "b")
    (b / "layer-1" / "ffn_gate.bin").write_bytes(b"")
    assert compare(a, b, allow_missing=("layer-1/ffn_gate",)).verdict is Verdict.PASS


def test_damage_on_both_sides_is_told_once_where_it_is_the_same(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    (a / "layer-1" / "ffn_gate.bin").write_bytes(b"")
    (skip,) = compare(a, a).skipped
    assert skip == Unpaired(STAGE, None, skip.reason) and skip.reason.endswith("(A and B)")


@pytest.mark.parametrize("manifest", [True, False])
def test_a_folder_that_may_not_be_entered_costs_its_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: bool
) -> None:
    a = write_capture(tmp_path / "a", manifest=manifest)
    close_folder(a / "layer-1", monkeypatch)
    found = compare(a, a, tokens=None if manifest else (5, 3, 9, 1, 7))
    assert found.verdict is Verdict.UNKNOWN and found.compared == NODES - 17
    assert {skip.node.layer for skip in found.skipped} == {1}
    assert all("Permission denied" in skip.reason for skip in found.skipped)
    capture = Capture.open(a)
    broken = [entry for entry in survey(capture, capture.graph.nodes) if isinstance(entry, BrokenStage)]
    assert len(broken) == 17


def test_a_capture_that_may_not_be_entered_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write_capture(tmp_path / "a")
    close_folder(tmp_path, monkeypatch)
    with pytest.raises(UnreadableError, match="Permission denied"):
        Capture.open(a)
