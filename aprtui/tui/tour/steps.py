"""The steps of the tour: what to do, when it is done, and the commands that do the same without a terminal.

A step is a row of `STEPS`. Nothing here needs Textual: `aprtui tour --text` prints the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aprtui.trace.graph.stage import Node
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state

PROMPT = "def fib(n):"
REFERENCE, FAULTY = "good", "mine"
"""The folders of the two captures."""
CULPRIT = Node(2, "q_post_rope")
FAULT = f"layer={CULPRIT.layer},stage={CULPRIT.stage},kind=rope-theta"
MODEL = "demo-qwen2-q4km"
"""The embedded model, as `--model` takes it."""


@dataclass(frozen=True, slots=True)
class TourView:
    """What the app shows, as far as steps ask for it.

    `fields` are those of the screen's state, `dialog` is the kind of one above it, `copied` the text that was copied
    last, `judged_by` the command by which the two captures were compared last; empty where there is none.
    """

    screen: ScreenName
    fields: Mapping[str, str] = field(default_factory=dict)
    dialog: str = ""
    copied: str = ""
    judged_by: tuple[str, ...] = ()

    @property
    def node(self) -> tuple[str | None, str | None]:
        """The layer and the stage under the cursor."""
        return self.fields.get("layer"), self.fields.get("stage")

    @property
    def at_culprit(self) -> bool:
        return self.node == (str(CULPRIT.layer), CULPRIT.stage)

    def capture(self, name: str) -> str:
        """The name of the capture that the field `name` has."""
        return Path(self.fields.get(name, "")).name


Condition = Callable[[TourView, TourView], bool]
"""Whether a step is done: of what is shown, and what was shown when the step began."""


@dataclass(frozen=True, slots=True)
class TourStep:
    """One thing to do. In `text`, `{id}` stands for the key of the command with that id in the help.

    `screen` is where it is done (None: on every one). The step begins when `ready` holds. `skipped_to` is what is shown
    when the step is skipped and later ones need it, for the folder of the captures; a state without fields is the
    screen as it was left. `plain` and `commands` are the step for `--text`, where it has one.
    """

    screen: ScreenName | None
    text: str
    done: Condition
    ready: Callable[[TourView], bool] = lambda view: True
    skipped_to: Callable[[Path], ScreenState | None] = lambda folder: None
    plain: str = ""
    commands: tuple[str, ...] = ()


def _diff(folder: Path) -> ScreenState:
    return screen_state(ScreenName.DIFF, a=folder / REFERENCE, b=folder / FAULTY)


def _is_judged(view: TourView) -> bool:
    return view.screen is ScreenName.DIFF and bool(view.judged_by)


STEPS: tuple[TourStep, ...] = (
    TourStep(
        ScreenName.LIVE,
        "A model at work. The grid has a row for each layer and a column for each stage of the pass that chose the "
        "token. Move over it with the arrows.",
        lambda now, begun: now.screen is ScreenName.LIVE and now.node != begun.node,
        ready=lambda view: view.screen is ScreenName.LIVE and None not in view.node,
        plain="A model at work.",
        commands=(f'aprtui run -p "{PROMPT}" -n 16',),
    ),
    TourStep(
        None,
        f"Two captures of this model lie ready: {REFERENCE}, the reference, and {FAULTY}, by an engine with one wrong "
        "line of code. {go.browse} lists them.",
        lambda now, begun: now.screen is ScreenName.BROWSE,
        skipped_to=lambda folder: ScreenState(ScreenName.BROWSE),
        plain=f"Two captures of it, every stage of every layer: {REFERENCE}, the reference, and {FAULTY}, by an engine "
        "with one wrong line of code.",
        commands=(
            f'aprtui trace -p "{PROMPT}" --save-tensor-dir {REFERENCE}',
            f'aprtui trace -p "{PROMPT}" --save-tensor-dir {FAULTY} --inject {FAULT}',
        ),
    ),
    TourStep(
        ScreenName.BROWSE,
        f"{{browse.mark}} on {REFERENCE} marks it as A, the reference. Then go down to {FAULTY} and mark it as B.",
        lambda now, begun: (now.capture("a"), now.capture("b")) == (REFERENCE, FAULTY),
        skipped_to=lambda folder: screen_state(ScreenName.BROWSE, path=folder, a=folder / REFERENCE, b=folder / FAULTY),
    ),
    TourStep(
        ScreenName.BROWSE,
        "{browse.diff} compares B with A, stage by stage, and measures by how much honest engines differ. The first "
        "time, kernels are compiled.",
        lambda now, begun: _is_judged(now),
        skipped_to=_diff,
        plain="The second against the first, stage by stage, and by how much honest engines differ there. Above the "
        "list of values stand the verdict and the cause; the exit code is 1.",
        commands=(f"aprtui diff {REFERENCE} {FAULTY} --model {MODEL}",),
    ),
    TourStep(
        ScreenName.DIFF,
        "The verdict stands above the grid: where they part, and the cause. What comes after it differs as well. "
        "{diff.next} goes to the next divergent stage.",
        lambda now, begun: now.screen is ScreenName.DIFF and not now.at_culprit,
        ready=lambda view: _is_judged(view) and view.at_culprit,
    ),
    TourStep(
        ScreenName.DIFF,
        "Which of them are wrong themselves? {diff.replay} replays both: it computes each stage again from its own "
        "captured inputs.",
        lambda now, begun: _is_judged(now) and "--replay" in now.judged_by,
        skipped_to=lambda folder: screen_state(ScreenName.DIFF, **_diff(folder).fields, judge="replay"),
        plain="Which stages are wrong themselves, and which have only inherited the error? A replay computes each again"
        " from its own captured inputs. It needs no reference: one capture and the model suffice.",
        commands=(f"aprtui replay {FAULTY}",),
    ),
    TourStep(
        ScreenName.DIFF,
        "One is left. All others do right by what they are given. {diff.first} goes to it.",
        lambda now, begun: now.screen is ScreenName.DIFF and now.at_culprit,
    ),
    TourStep(
        ScreenName.DIFF,
        "{diff.causes} shows the proof of the cause: all else that was tried is refuted. {back} closes it.",
        lambda now, begun: now.dialog == "CausesDialog",
    ),
    TourStep(
        ScreenName.DIFF,
        "{diff.open} opens the values of this stage, at the one that differs most.",
        lambda now, begun: now.screen is ScreenName.TENSOR and now.at_culprit,
        skipped_to=lambda folder: screen_state(
            ScreenName.TENSOR, capture=folder / FAULTY, layer=CULPRIT.layer, stage=CULPRIT.stage
        ),
        plain="The values of that stage, those that differ most first.",
        commands=(
            f"aprtui diff {REFERENCE} {FAULTY} --model {MODEL} --stage {CULPRIT.stage} --layers {CULPRIT.layer}",
        ),
    ),
    TourStep(
        ScreenName.TENSOR,
        "Rows are tokens, columns are channels, colours are values. {tensor.closer} zooms in: press it until numbers "
        "stand there.",
        lambda now, begun: now.screen is ScreenName.TENSOR and now.fields.get("zoom") == "numbers",
    ),
    TourStep(
        ScreenName.TENSOR,
        "Plausible numbers, and wrong: their rms is that of the reference, so statistics would not find it. "
        "{back} goes back to the diff.",
        lambda now, begun: now.screen is ScreenName.DIFF,
        skipped_to=lambda folder: ScreenState(ScreenName.DIFF),
    ),
    TourStep(
        ScreenName.DIFF,
        "The same without a screen: {copy.command} copies the command that prints this verdict. Its exit code is 1, so "
        "CI fails.",
        lambda now, begun: now.copied.startswith("aprtui diff "),
        plain="Both in one, for a script or CI: the exit code is 1, and --json prints records.",
        commands=(f"aprtui diff {REFERENCE} {FAULTY} --model {MODEL} --replay",),
    ),
)


END = "You have found the first wrong number, its cause and the proof. Now on your own engine: {tour.skip} shows how."
"""What stands in the strip when all steps are done."""


@dataclass(frozen=True, slots=True)
class OwnEngine:
    """How a capture comes out of an engine, and what judges it; `key` copies that in the app."""

    key: str
    name: str
    lines: tuple[str, ...]
    page: str


OWN_ENGINES: tuple[OwnEngine, ...] = (
    OwnEngine(
        "l", "llama.cpp",
        (
            f'aprtui oracle llamacpp model.gguf -p "{PROMPT}" --out theirs',
            "aprtui replay theirs --model model.gguf",
        ),
        "docs/oracle.md",
    ),
    OwnEngine(
        "t", "transformers",
        (
            f'aprtui oracle hf model.gguf -p "{PROMPT}" --out theirs',
            "aprtui diff theirs mine --model model.gguf",
        ),
        "docs/oracle.md",
    ),
    OwnEngine(
        "p", "PyTorch",
        (
            "from aprtui.capture import capture",
            'with capture(model, "theirs"):',
            "    model.generate(ids, max_new_tokens=8, do_sample=False)",
            "# then: aprtui replay theirs --model model.gguf",
        ),
        "docs/pytorch.md",
    ),
    OwnEngine(
        "c", "C, Rust, Python",
        (
            f'rm -rf mine && ./my-engine model.gguf "{PROMPT}" --dump mine',
            "aprtui replay mine --model model.gguf",
        ),
        "docs/writers.md",
    ),
)  # fmt: skip
"""What the documents have for them, word for word."""
