"""Captures of models with experts: which expert a number belongs to, and what choices of experts say to the verdict."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison, FocusKind
from aprtui.compare.explain.focus import blame, nearest_to_bound
from aprtui.compare.report.headline import headline
from aprtui.compare.verdict import Verdict, parse_tolerance
from aprtui.model.model import load_model
from aprtui.trace.aprt import read_aprt, write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.names import graph_from_names
from aprtui.trace.graph.stage import ROUTER, ROUTER_CHOICE, Node
from aprtui.trace.manifest import relative_path
from tests.engine.embedded_captures import captured
from tests.model.gguf_files import EXPERT_FFN, write_model

TOKENS = (1, 5, 9, 200, 33)
EXPERTS, USED = 8, 2

Change = Callable[[np.ndarray], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    model = load_model(write_model(folder / "model.gguf", architecture="qwen3moe", experts=EXPERTS, experts_used=USED))
    return captured(model, folder / "good", tokens=TOKENS)


def edited(good: Path, folder: Path, changes: dict[Node, Change]) -> Path:
    """A copy with other values, and without the manifest, whose checksums would not be theirs."""
    shutil.copytree(good, folder)
    (folder / "manifest.json").unlink()
    for node, change in changes.items():
        path = folder / relative_path(node)
        values = read_aprt(path).values.copy().reshape(len(TOKENS), -1)
        change(values)
        write_aprt(path, node.layer, values)
    return folder


def compared(a: Path, b: Path, *tolerances: str) -> Comparison:
    options = DiffOptions(tolerances=tuple(map(parse_tolerance, tolerances)), limit=1)
    return compare_captures(Capture.open(a), Capture.open(b), options)


def added(token: int, column: int, amount: float = 1.0) -> Change:
    def change(values: np.ndarray) -> None:
        values[token, column] += amount

    return change


def test_a_wrong_number_of_an_expert_names_the_expert(good: Path, tmp_path: Path) -> None:
    column = EXPERT_FFN + 7  # channel 7 of the second choice
    bad = edited(good, tmp_path / "bad", {Node(1, "ffn_moe_up"): added(3, column)})
    result = compared(good, bad, "max_abs=0.1")
    expert = int(Capture.open(good).values(Node(1, ROUTER_CHOICE))[3, 1])
    place = {"token": 3, "channel": column, "choice": 1, "expert": expert}
    assert result.first_divergence is not None and result.first_divergence.place == place
    assert result.elements[0].place == place
    assert next(stage.place for stage in result.stages if stage.node == Node(1, "ffn_moe_up")) == place
    assert headline(result).startswith(f"layer 1 ffn_moe_up, token 3, expert {expert}: ")


def test_where_the_sides_chose_differently_the_choice_is_named_but_no_expert(good: Path, tmp_path: Path) -> None:
    changes = {Node(1, "ffn_moe_up"): added(3, 7), Node(1, ROUTER_CHOICE): added(3, 0)}
    result = compared(good, edited(good, tmp_path / "bad", changes), "max_abs=0.1")
    places = {stage.node.stage: stage.place for stage in result.stages if stage.place}
    assert places["ffn_moe_up"] == {"token": 3, "channel": 7, "choice": 0}
    assert places[ROUTER_CHOICE] == {"token": 3, "choice": 0}


def test_a_number_of_the_router_is_that_of_an_expert_and_others_stay_channels(good: Path, tmp_path: Path) -> None:
    changes = {Node(0, ROUTER): added(2, 6), Node(0, "ffn_moe_weights"): added(1, 1), Node(1, "ffn_norm"): added(4, 9)}
    result = compared(good, edited(good, tmp_path / "bad", changes), "max_abs=0.1")
    places = {stage.node: stage.place for stage in result.stages if stage.place}
    assert places == {
        Node(0, ROUTER): {"token": 2, "expert": 6}, Node(0, "ffn_moe_weights"): {"token": 1, "choice": 1},
        Node(1, "ffn_norm"): {"token": 4, "channel": 9},
    }  # fmt: skip


def tied_choice(good: Path, folder: Path, more: dict[Node, Change], router: str = ROUTER) -> tuple[Path, Path]:
    """Two captures whose routers find two experts equally likely, of which they chose the other one."""
    choice = Capture.open(good).values(Node(0, ROUTER_CHOICE))[2]
    outside = next(expert for expert in range(EXPERTS) if expert not in choice)

    def tie(values: np.ndarray) -> None:
        values[2, outside] = values[2, int(choice[1])]

    def other(values: np.ndarray) -> None:
        values[2, 1] = outside

    a = edited(good, folder / "a", {Node(0, router): tie})
    return a, edited(good, folder / "b", {Node(0, router): tie, Node(0, ROUTER_CHOICE): other, **more})


def test_an_honest_other_choice_is_never_what_comes_nearest_to_its_bound(good: Path, tmp_path: Path) -> None:
    gate = Node(1, "ffn_moe_gate")
    result = compared(*tied_choice(good, tmp_path, {gate: added(0, 0, 0.01)}), "max_abs=0.1")
    assert result.verdict is Verdict.PASS and {stage.node for stage in result.differing} == {
        Node(0, ROUTER_CHOICE),
        gate,
    }
    nearest = nearest_to_bound(result.stages)
    assert nearest is not None and nearest.node == gate and "nearest is layer 1 ffn_moe_gate" in headline(result)
    assert result.smallest is not None and result.smallest.bound < 0.02, "a tolerance is for numbers, not for choices"


def test_where_nothing_but_choices_differs_the_sentence_says_why_that_is_honest(good: Path, tmp_path: Path) -> None:
    result = compared(*tied_choice(good, tmp_path, {}), "max_abs=0.1")
    assert result.verdict is Verdict.PASS
    assert headline(result) == (
        "layer 0 moe_router_indices: 1 choice between experts that the routers find equally likely"
    )


def test_where_a_side_keeps_its_probabilities_to_itself_the_logits_say_which_choices_are_honest(
    good: Path, tmp_path: Path
) -> None:
    """As transformers does: no module of it gives them."""
    logits = Node(0, "ffn_moe_logits")
    for name, router, expected in (("tied", logits.stage, Verdict.PASS), ("untied", ROUTER, Verdict.FAIL)):
        a, b = tied_choice(good, tmp_path / name, {}, router)
        (a / relative_path(Node(0, ROUTER))).unlink()
        found = {stage.node: stage.verdict.verdict for stage in compared(a, b).stages}
        assert Node(0, ROUTER) not in found and found[logits] is not Verdict.FAIL
        assert found[Node(0, ROUTER_CHOICE)] is expected


def test_an_honest_other_choice_is_not_where_to_look_first(good: Path, tmp_path: Path) -> None:
    down = Node(1, "ffn_moe_down")
    result = compared(*tied_choice(good, tmp_path, {down: added(0, 0, 2.0)}))
    assert result.verdict is Verdict.UNKNOWN and result.focus is not None
    assert (result.focus.node, result.focus.kind) == (down, FocusKind.JUMP)


OF_CHOSEN = (
    ROUTER_CHOICE, "ffn_moe_weights", "ffn_moe_weights_norm", "ffn_moe_gate", "ffn_moe_up", "ffn_moe_silu",
    "ffn_moe_swiglu", "ffn_moe_down",
)  # fmt: skip
"""Stages that have something for each expert of a token."""


def turned_around(values: np.ndarray) -> None:
    """The experts of tokens 1 and 3 in another order."""
    for token in (1, 3):
        values[token] = values[token].reshape(USED, -1)[::-1].reshape(-1)


def test_the_same_experts_in_another_order_are_no_divergence(good: Path, tmp_path: Path) -> None:
    result = compared(good, edited(good, tmp_path / "b", {Node(1, name): turned_around for name in OF_CHOSEN}))
    assert result.verdict is Verdict.PASS and not result.differing
    matched = {stage.node.stage: stage.matched for stage in result.stages if stage.node.layer == 1}
    assert {name for name, words in matched.items() if "experts of a token put in A's order" in words} == {*OF_CHOSEN}


def test_a_wrong_number_of_an_expert_in_another_place_names_that_expert(good: Path, tmp_path: Path) -> None:
    def wrong(values: np.ndarray) -> None:
        turned_around(values)
        values[3, 7] += 1  # B's first expert is A's second

    changes: dict[Node, Change] = {Node(1, name): turned_around for name in OF_CHOSEN}
    result = compared(good, edited(good, tmp_path / "b", changes | {Node(1, "ffn_moe_up"): wrong}), "max_abs=0.1")
    assert result.first_divergence is not None and result.first_divergence.verdict.node == Node(1, "ffn_moe_up")
    expert = int(Capture.open(good).values(Node(1, ROUTER_CHOICE))[3, 1])
    assert result.first_divergence.place == {"token": 3, "channel": EXPERT_FFN + 7, "choice": 1, "expert": expert}


@pytest.mark.parametrize("left", [ROUTER_CHOICE, "ffn_moe_weights", "ffn_moe_up"])
def test_what_keeps_the_order_that_the_others_lost_fails(good: Path, tmp_path: Path, left: str) -> None:
    changes: dict[Node, Change] = {Node(1, name): turned_around for name in OF_CHOSEN if name != left}
    result = compared(good, edited(good, tmp_path / "b", changes), "rel_l2=1e-3")
    assert result.verdict is Verdict.FAIL and result.first_divergence is not None
    expected = "ffn_moe_weights" if left == ROUTER_CHOICE else left
    assert result.first_divergence.verdict.node == Node(1, expected)


def test_another_set_of_experts_fails_in_any_order(good: Path, tmp_path: Path) -> None:
    choice = Capture.open(good).values(Node(1, ROUTER_CHOICE))[3]
    outside = next(expert for expert in range(EXPERTS) if expert not in choice)
    for name, chosen in (("other", (outside, choice[0])), ("twice", (choice[1], choice[1])), ("nan", (np.nan,) * 2)):

        def odd(values: np.ndarray, chosen: tuple[float, ...] = chosen) -> None:
            values[3] = chosen

        result = compared(good, edited(good, tmp_path / name, {Node(1, ROUTER_CHOICE): odd}))
        assert result.verdict is Verdict.FAIL and result.first_divergence is not None
        assert result.first_divergence.verdict.node == Node(1, ROUTER_CHOICE)


@pytest.mark.parametrize(
    ("names", "divergent", "blamed"),
    [
        (
            ["ffn_norm", "moe_router", "moe_ffn_out"], "moe_ffn_out",
            ["moe_router_indices", "ffn_moe_weights", "ffn_moe_weights_norm", "ffn_moe_gate", "ffn_moe_up",
             "ffn_moe_silu", "ffn_moe_swiglu", "ffn_moe_down", "moe_ffn_out"],
        ),
        (
            ["ffn_norm", "ffn_geglu", "ffn_out", "post_ffn_residual"], "ffn_geglu",
            ["ffn_gate", "ffn_up", "ffn_gelu", "ffn_geglu"],
        ),
        (["ffn_norm", "ffn_out"], "ffn_out", ["ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out"]),
    ],
    ids=["experts", "GELU", "plain"],
)  # fmt: skip
def test_stages_that_a_capture_without_a_manifest_lacks_are_those_of_its_kind_of_model(
    names: list[str], divergent: str, blamed: list[str]
) -> None:
    graph = graph_from_names(names, 2)
    segment, _ = blame(graph, Node(1, divergent), {Node(1, name) for name in names}, [])
    assert [node.stage for node in segment] == blamed
