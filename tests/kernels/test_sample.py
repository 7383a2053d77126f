"""Choices on the device are those of `aprtui.engine.sampling` on the same logits, and the step moves on with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprtui import resources
from aprtui.engine.cuda.choices import CANDIDATE, CHOSEN, greedy_choice
from aprtui.engine.likeliest import likeliest
from aprtui.engine.sampling import GREEDY, Choice, Sampler
from aprtui.errors import EngineError
from tests.kernels.cases import STEP, step
from tests.kernels.emulated import Image, InOut, Out

pytestmark = pytest.mark.group("emulator")

Images = Callable[..., Image]
RING = 3
PARTS = np.dtype([("first", "<u8"), ("second", "<u8"), ("total", "<f8"), ("weighted", "<f8"), ("nan", "<f8")])


def logits_of(vocabulary: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, vocabulary]).standard_normal(vocabulary, np.float32) * 4


def greedy(image: Image, logits: np.ndarray, now: np.ndarray, **options: int) -> list[np.ndarray]:
    """Step, token and ring after the launch, the ring filled with 7 before."""
    blocks = -(-logits.size // 1024)
    moved, token, ring, _, counter = image.run(
        "greedy", (blocks,), 256, logits, logits.size, InOut(now), InOut(np.array([-9], np.int32)),
        InOut(np.full(RING, 7, CHOSEN)), RING, Out((blocks,), PARTS), InOut(np.zeros(1, np.uint32)), **options,
    )  # fmt: skip
    assert counter[0] == 0
    return [moved, token, ring]


def candidates(image: Image, logits: np.ndarray, count: int, ordinal: int = 0, **options: int) -> np.ndarray:
    blocks = -(-logits.size // 2048)
    ring, _, counter = image.run(
        "top_candidates", (blocks,), 256, logits, logits.size, count, step(0, ordinal=ordinal),
        InOut(np.full((RING, count), 7, CANDIDATE)), RING, Out((blocks, count), np.uint64),
        InOut(np.zeros(1, np.uint32)), **options,
    )  # fmt: skip
    assert counter[0] == 0
    others = np.delete(ring, ordinal % RING, axis=0)
    assert (others == np.full(others.shape, 7, CANDIDATE)).all(), "wrote another entry of the ring"
    return ring[ordinal % RING]


def choice_on_the_device(image_of: Images, logits: np.ndarray, count: int = 5) -> Choice:
    _, _, ring = greedy(image_of("sample"), logits, step(0))
    return greedy_choice(ring[0], candidates(image_of("sample"), logits, count), logits.size)


def assert_same(found: Choice, expected: Choice) -> None:
    assert (found.id, found.probability, found.margin) == (expected.id, 1.0, expected.margin)
    assert found.logprob == pytest.approx(expected.logprob, rel=1e-13, abs=1e-14)
    assert found.entropy == pytest.approx(expected.entropy, rel=1e-12, abs=1e-13)
    assert [c.id for c in found.candidates] == [c.id for c in expected.candidates]
    assert [c.probability for c in found.candidates] == pytest.approx(
        [c.probability for c in expected.candidates], rel=1e-13
    )


@pytest.mark.parametrize("vocabulary", [1, 2, 300, 1024, 1025, 5000, 40_000])
def test_greedy_choice_and_its_figures_are_those_of_the_cpu(image_of: Images, vocabulary: int) -> None:
    logits = logits_of(vocabulary)
    assert_same(choice_on_the_device(image_of, logits), Sampler(GREEDY, 5).choose(logits, []))


def test_the_largest_vocabularies_fit_one_launch(image_of: Images) -> None:
    logits = logits_of(262_144)
    logits[262_000] = 40
    _, token, ring = greedy(image_of("sample"), logits, step(0), orders=1)
    found = candidates(image_of("sample"), logits, 128, orders=1)
    assert token[0] == 262_000
    assert_same(greedy_choice(ring[0], found, logits.size), Sampler(GREEDY, 128).choose(logits, []))


@pytest.mark.parametrize("places", [(3, 4), (700, 2), (1030, 9), (4000, 3999), (4999, 0)])
def test_of_equal_logits_the_lower_id_wins(image_of: Images, places: tuple[int, int]) -> None:
    logits = logits_of(5000)
    logits[list(places)] = 50
    choice = choice_on_the_device(image_of, logits)
    assert choice.id == min(places)
    assert [c.id for c in choice.candidates][:2] == sorted(places)
    assert choice.margin == 0
    assert_same(choice, Sampler(GREEDY, 5).choose(logits, []))


def test_zeros_of_both_signs_are_equal(image_of: Images) -> None:
    logits = np.full(3000, -1, np.float32)
    logits[[2, 2500, 7]] = -0.0, 0.0, 0.0
    assert_same(choice_on_the_device(image_of, logits), Sampler(GREEDY, 5).choose(logits, []))


@pytest.mark.parametrize("start", [0, 1024, 2000])
def test_minus_infinity_weighs_nothing(image_of: Images, start: int) -> None:
    logits = np.full(4000, -np.inf, np.float32)
    logits[start : start + 2] = 1, 2
    with np.errstate(invalid="ignore"):
        assert_same(choice_on_the_device(image_of, logits), Sampler(GREEDY, 5).choose(logits, []))


@pytest.mark.parametrize("bad", [{2100: np.nan, 90: -np.nan}, {2100: np.inf, 90: np.inf}, {17: np.nan, 3: np.inf}])
def test_logits_that_are_no_distribution_are_refused_in_the_same_words(image_of: Images, bad: dict[int, float]) -> None:
    logits = logits_of(3000)
    logits[list(bad)] = list(bad.values())
    _, token, ring = greedy(image_of("sample"), logits, step(0))
    assert token[0] == np.argmax(logits)
    with pytest.raises(EngineError) as expected:
        Sampler(GREEDY).choose(logits, [])
    with pytest.raises(EngineError) as found:
        greedy_choice(ring[0], np.zeros(0, CANDIDATE), logits.size)
    assert str(found.value) == str(expected.value)


def test_nothing_but_minus_infinity_is_refused_in_the_same_words(image_of: Images) -> None:
    logits = np.full(1500, -np.inf, np.float32)
    _, token, ring = greedy(image_of("sample"), logits, step(0))
    assert token[0] == 0
    with pytest.raises(EngineError, match="all logits are -Inf"):
        greedy_choice(ring[0], np.zeros(0, CANDIDATE), logits.size)


def test_the_step_moves_behind_the_pass_and_the_ring_is_written_in_turn(image_of: Images) -> None:
    logits, image = logits_of(700), image_of("sample")
    moved, token, ring = greedy(image, logits, step(20, tokens=6, ordinal=4))
    np.testing.assert_array_equal(moved, np.array([(26, 1, 5, 0)], STEP))
    assert token[0] == ring[1]["id"] == np.argmax(logits)
    assert (ring[1]["position"], ring[1]["ordinal"]) == (26, 4)
    assert (ring[[0, 2]] == np.full(2, 7, CHOSEN)).all()
    again, _, ring = greedy(image, logits, moved)
    np.testing.assert_array_equal(again, np.array([(27, 1, 6, 0)], STEP))
    assert (ring[2]["position"], ring[2]["ordinal"]) == (27, 5)


def test_without_a_token_to_write_the_host_chooses_and_the_step_stays(image_of: Images) -> None:
    logits, now = logits_of(700), step(20, tokens=6, ordinal=4)
    moved, ring, _, _ = image_of("sample").run(
        "greedy", (1,), 256, logits, 700, InOut(now), None, InOut(np.zeros(RING, CHOSEN)), RING, Out((1,), PARTS),
        InOut(np.zeros(1, np.uint32)),
    )  # fmt: skip
    np.testing.assert_array_equal(moved, now)
    assert ring[1]["id"] == np.argmax(logits)


@pytest.mark.parametrize(("vocabulary", "count"), [(1, 1), (5, 8), (2049, 40), (9000, 128), (3000, 1024), (4097, 1)])
@pytest.mark.parametrize("few_values", [False, True])
def test_candidates_are_the_likeliest_in_order(image_of: Images, vocabulary: int, count: int, few_values: bool) -> None:
    logits = np.round(logits_of(vocabulary)) if few_values else logits_of(vocabulary)
    found = candidates(image_of("sample"), logits, count, ordinal=5)
    real = found[: min(vocabulary, count)]
    np.testing.assert_array_equal(real["id"], likeliest(logits, count))
    np.testing.assert_array_equal(real["logit"], logits[real["id"]])
    assert (found[real.size :]["id"] == -1).all()


# ---- planted bugs: the tests above would see them

SORTS = "        if ((a < b) == descending) keys[low] = b, keys[high] = a;\n      }\n      __syncthreads();\n"
TOPS = "  if (lane_index() == 0) scratch[warp_index()] = own;\n  __syncthreads();\n"


@pytest.mark.parametrize(
    ("kernel", "text", "instead"),
    [(candidates, SORTS, SORTS.replace("      __syncthreads();\n", "")), (greedy, TOPS, TOPS.splitlines()[0] + "\n")],
    ids=["sort", "block_top"],
)
def test_a_missing_barrier_is_found(
    build_image: Images, tmp_path: Path, kernel: Callable[..., object], text: str, instead: str
) -> None:
    source = (resources.kernels() / "sample.cu").read_text()
    assert source.count(text) == 1
    planted = tmp_path / f"sample_{kernel.__name__}.cu"
    planted.write_text(source.replace(text, instead))
    with pytest.raises(AssertionError, match="depends on the order of threads"):
        kernel(build_image(planted), logits_of(3000), 16 if kernel is candidates else step(0))
