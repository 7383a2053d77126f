"""Keys of tasks: what they depend on, and what they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.errors import UsageError
from aprtui.sweep.plan import read_plan
from aprtui.sweep.tasks import planned_groups
from tests.sweep.plans import copying_plan, groups_of, planned

PLAN = """\
models: {tiny: embedded}
prompts: ["def f(n):", {tokens: [1, 2, 3]}]
engines:
  exact: {backend: numpy}
  q8: {backend: numpy, mode: q8}
pairs:
  - {a: exact, b: q8}
"""


def keys(folder: Path, text: str, identity: str = "1") -> list[tuple[str, ...]]:
    folder.mkdir(exist_ok=True)
    path = folder / "plan.yaml"
    path.write_text(text)
    plan = read_plan(path)
    groups = planned_groups(plan, dict.fromkeys(plan.engines, identity), lambda *_: None)
    return [(task.key, *(c.key for c in task.captures)) for group in groups for task in group.verdicts]


def test_the_same_work_has_the_same_keys_wherever_the_plan_lies_and_whatever_things_are_called(tmp_path: Path) -> None:
    renamed = PLAN.replace("tiny", "small").replace("exact", "reference")
    assert keys(tmp_path / "a", PLAN) == keys(tmp_path / "b", renamed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("mode: q8", "mode: q8, kv: f16"),
        ("mode: q8", "mode: q8, inject: ['layer=1,stage=ffn_up,kind=zero-channel']"),
        ("[1, 2, 3]", "[1, 2, 4]"),
        ("b: q8}", "b: q8, tolerance: [rel_l2=0.1]}"),
        ("b: q8}", "b: q8, judge: replay}"),
    ],
)
def test_what_changes_a_result_changes_its_key(tmp_path: Path, before: str, after: str) -> None:
    was, now = (keys(tmp_path, text) for text in (PLAN, PLAN.replace(before, after)))
    assert now[1][0] != was[1][0]
    assert now[0][1] == was[0][1], "the reference on the first prompt is the same"


def test_another_version_of_an_engine_is_another_engine(tmp_path: Path) -> None:
    assert not set(keys(tmp_path, PLAN)[0]) & set(keys(tmp_path, PLAN, "2")[0])


def test_pairs_share_the_captures_of_their_engines(tmp_path: Path) -> None:
    (group,) = planned(copying_plan(tmp_path, 1))
    assert len(group.verdicts) == 3
    assert len({capture.key for task in group.verdicts for capture in task.captures}) == 3


def test_a_prompt_that_a_model_cannot_have_is_refused_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.replace("[1, 2, 3]", "[1, 99999]"))
    with pytest.raises(UsageError, match=rf"{path}:2: with the model .*: 99999 is not in the vocabulary"):
        groups_of(read_plan(path))


def test_a_fault_that_a_model_cannot_have_is_refused_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.replace("mode: q8", "inject: ['layer=99,stage=ffn_up,kind=zero-channel']"))
    with pytest.raises(UsageError, match=rf"{path}:5: .*q8: with the model tiny: --inject"):
        groups_of(read_plan(path))
