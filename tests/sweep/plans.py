"""Plans and folders of sweeps, for tests: engines that copy captures of known values, so that a task costs little."""

from __future__ import annotations

from pathlib import Path

from aprtui.sweep.fields import PlanField
from aprtui.sweep.folder import SweepFolder
from aprtui.sweep.plan import SweepPlan, read_plan
from aprtui.sweep.tasks import SweepGroup, planned_groups
from aprtui.trace.graph.stage import Node
from aprtui.yaml_file import parse_yaml
from tests.compare.synthetic import scaled, write_capture

FAULTY_TOKENS = 7
"""The engine `wrong` of `copying_plan` errs on prompts that begin with this token."""
FAULT = Node(1, "ffn_up")

PROGRAM = "copy.sh"
"""What the engines of `copying_plan` are: it lies beside the plan."""


def field(text: str, path: Path = Path("plan.yaml")) -> PlanField:
    """A value of a plan that is written as `text`."""
    node = parse_yaml(text, path).root
    assert node is not None
    return PlanField(path, "it", node)


def copying_plan(folder: Path, prompts: int, seconds: float = 0.0, name: str = "plan.yaml") -> Path:
    """A plan of `prompts` prompts with three engines that copy captures, each after so many `seconds`; one of the three
    errs at prompts with an odd number."""
    (folder / PROGRAM).write_text(f'sleep {seconds}\ncp -r "$1" "$2"\n')
    lists = [(FAULTY_TOKENS if number % 2 else 5, number, 9) for number in range(prompts)]
    for tokens in lists:
        name_of = ",".join(map(str, tokens))
        wrong = {FAULT: scaled(1.5)} if tokens[0] == FAULTY_TOKENS else {}
        for engine, edits in (("one", {}), ("two", {}), ("wrong", wrong)):
            write_capture(folder / "captures" / f"{engine}-{name_of}", tokens=tokens, edits=edits)
    engines = "\n".join(
        f"  {engine}: {{command: 'sh {PROGRAM} captures/{engine}-{{tokens}} {{out}}'}}"
        for engine in ("one", "two", "wrong")
    )
    path = folder / name
    path.write_text(
        "models: {tiny: embedded}\nprompts:\n"
        + "".join(f"  - {{tokens: {list(tokens)}}}\n" for tokens in lists)
        + f"engines:\n{engines}\npairs:\n"
        + "  - {a: one, b: two, tolerance: [rel_l2=1e-5]}\n"
        + "  - {a: one, b: wrong, tolerance: [rel_l2=1e-5]}\n"
        + "  - {a: two, b: wrong, tolerance: [rel_l2=1e-5]}\n"
    )
    return path


def groups_of(plan: SweepPlan) -> list[SweepGroup]:
    """The work of a plan whose engines need no versions."""
    return planned_groups(plan, dict.fromkeys(plan.engines, "1"), lambda *_: None)


def planned(path: Path) -> list[SweepGroup]:
    return groups_of(read_plan(path))


def new_folder(path: Path) -> SweepFolder:
    """An empty folder of a sweep."""
    folder = SweepFolder(path)
    with folder.locked():
        return folder
