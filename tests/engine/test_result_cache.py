"""Results kept on disk: measured once for a key, and again once the sources that measured them have changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.engine import result_cache
from aprtui.engine.floors import criteria
from aprtui.engine.logit_noise import measure_logit_noise
from aprtui.engine.result_cache import all_cached, cached, python_digest
from aprtui.model.model import Model
from aprtui.progress import no_progress


def counted() -> Callable[[], int]:
    results = iter(range(10))
    return lambda: next(results)


def test_a_result_is_measured_once_for_a_key(tmp_path: Path) -> None:
    measure = counted()

    def result(*key: str) -> int:
        return cached(tmp_path / "folder", key, measure, encode=lambda n: {"n": n}, decode=lambda f: int(f["n"]))

    assert [result("a"), result("a"), result("b"), result("a")] == [0, 0, 1, 0]
    assert sorted(all_cached(tmp_path / "folder", lambda fields: fields["n"])) == [0, 1]


def test_a_result_that_cannot_be_read_is_measured_again(tmp_path: Path) -> None:
    measure = counted()
    for text in ("there is no file yet", "{", "[]", '{"n": "x"}', "{}"):
        for path in tmp_path.glob("*.json"):
            path.write_text(text)
        before = cached(tmp_path, ["key"], measure, encode=lambda n: {"n": n}, decode=lambda fields: int(fields["n"]))
    assert before == 4
    (tmp_path / "other.json").write_text("[")
    assert list(all_cached(tmp_path, lambda fields: fields["n"])) == [4]


def test_a_folder_that_cannot_be_written_costs_the_result_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    measure = counted()
    for expected in (0, 1):
        assert cached(tmp_path / "file", ["key"], measure, encode=int, decode=int) == expected


def test_a_change_in_any_source_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "room" / "deep").mkdir(parents=True)
    for name in ("room/a.py", "room/deep/b.py", "c.py", "other.py"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(result_cache, "_PACKAGE", tmp_path)

    def digest() -> str:
        python_digest.cache_clear()
        return python_digest("room", "c.py")

    seen = [digest()]
    for name in ("room/a.py", "room/deep/b.py", "c.py"):
        (tmp_path / name).write_text("changed")
        seen.append(digest())
    assert len(set(seen)) == 4
    (tmp_path / "other.py").write_text("changed")
    assert digest() == seen[-1]
    python_digest.cache_clear()


@pytest.mark.parametrize(
    "source",
    ["engine/rounding.py", "engine/cpu/matmul/tile.py", "compare/metrics/measure.py", "engine/replay/bounds.py"],
)
def test_noise_floors_depend_on_all_that_measures_them(source: str) -> None:
    assert any(source == place or source.startswith(f"{place}/") for place in criteria.SOURCES)


def test_every_source_of_noise_floors_is_there() -> None:
    package = Path(result_cache.__file__).parents[1]
    assert [place for place in criteria.SOURCES if not (package / place).exists()] == []


def test_noise_at_the_logits_is_that_of_a_backend(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aprtui.engine.logit_noise.floor_cache", lambda: tmp_path / "floors")
    for backend in ("numpy", "cpu"):
        measure_logit_noise(model, range(8), backend, 1, no_progress)
    assert len(list((tmp_path / "floors").glob("*.json"))) == 2
