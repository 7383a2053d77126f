"""Choices on the device are those of `aprtui.engine.sampling` on the same logits, and the step moves on with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprtui import resources
from aprtui.engine.cuda.choosing import CANDIDATE, CHOSEN, DRAWN, drawn_choice, greedy_choice
from aprtui.engine.sampling import GREEDY, Choice, Sampler, Sampling, top_tokens
from aprtui.errors import EngineError
from tests.kernels.cases import STEP, step
from tests.kernels.emulated import Images, InOut, Kernels, Out

pytestmark = pytest.mark.group("emulator")

RING = 3
PARTS = np.dtype([("first", "<u8"), ("second", "<u8"), ("total", "<f8"), ("weighted", "<f8"), ("nan", "<f8")])


def logits_of(vocabulary: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, vocabulary]).standard_normal(vocabulary, np.float32) * 4


def greedy(image: Kernels, logits: np.ndarray, now: np.ndarray, **options: int) -> list[np.ndarray]:
    """Step, token and ring after the launch, the ring filled with 7 before."""
    blocks = -(-logits.size // 1024)
    moved, token, ring, _, counter = image.run(
        "greedy", (blocks,), 256, logits, logits.size, InOut(now), InOut(np.array([-9], np.int32)),
        InOut(np.full(RING, 7, CHOSEN)), RING, Out((blocks,), PARTS), InOut(np.zeros(1, np.uint32)), **options,
    )  # fmt: skip
    assert counter[0] == 0
    return [moved, token, ring]


def likeliest_of(image: Kernels, logits: np.ndarray, now: np.ndarray, **options: int) -> np.ndarray:
    """The ring after a launch without a token to write, in which the step must stay."""
    blocks = -(-logits.size // 1024)
    moved, ring, _, counter = image.run(
        "greedy", (blocks,), 256, logits, logits.size, InOut(now), None, InOut(np.full(RING, 7, CHOSEN)), RING,
        Out((blocks,), PARTS), InOut(np.zeros(1, np.uint32)), **options,
    )  # fmt: skip
    np.testing.assert_array_equal(moved, now)
    assert counter[0] == 0
    return np.asarray(ring)


def draw(
    image: Kernels, logits: np.ndarray, now: np.ndarray, uniform: float, sampling: Sampling, likeliest: np.ndarray,
    **options: int,
) -> list[np.ndarray]:  # fmt: skip
    """Step, token and ring after the launch; the numbers are `uniform` where the step says, and NaN elsewhere."""
    blocks, uniforms = -(-logits.size // 1024), np.full(RING, np.nan)
    uniforms[now["ordinal"] % RING] = uniform
    moved, token, ring, _, counter = image.run(
        "draw", (blocks,), 256, logits, logits.size, np.float64(sampling.temperature), np.float64(sampling.min_p),
        uniforms, likeliest, InOut(now), InOut(np.array([-9], np.int32)), InOut(np.full(RING, 7, DRAWN)), RING,
        Out((blocks,), np.float64), InOut(np.zeros(1, np.uint32)), **options,
    )  # fmt: skip
    assert counter[0] == 0
    return [moved, token, ring]


def candidates(image: Kernels, logits: np.ndarray, count: int, ordinal: int = 0, **options: int) -> np.ndarray:
    blocks = -(-logits.size // 2048)
    ring, _, counter = image.run(
        "top_candidates", (blocks,), 256, logits, logits.size, count, step(0, ordinal=ordinal),
        InOut(np.full((RING, count), 7, CANDIDATE)), RING, Out((blocks, count), np.uint64),
        InOut(np.zeros(1, np.uint32)), **options,
    )  # fmt: skip
    assert counter[0] == 0
    others = np.delete(ring, ordinal % RING, axis=0)
    assert (others == np.full(others.shape, 7, CANDIDATE)).all(), "wrote another entry of the ring"
    return np.asarray(ring[ordinal % RING])


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
    logits = logits_of(700)
    ring = likeliest_of(image_of("sample"), logits, step(20, tokens=6, ordinal=4))
    assert ring[1]["id"] == np.argmax(logits)


def assert_draws_are_the_hosts(
    image: Kernels, logits: np.ndarray, sampling: Sampling, count: int, orders: int = 3
) -> list[int]:
    """That many draws from the stream of one sampler, and by another; the ids."""
    device, host = Sampler(sampling), Sampler(sampling)
    likeliest = likeliest_of(image, logits, step(0), orders=orders)
    ids = []
    for uniform in device.uniforms(0, count):
        expected = host.choose(logits, [])
        _, token, ring = draw(image, logits, step(0), uniform, sampling, likeliest, orders=orders)
        found = drawn_choice(ring[0], likeliest[0], np.zeros(0, CANDIDATE), logits.size)
        assert (token[0], found.id, found.margin) == (expected.id, expected.id, expected.margin)
        for name in ("probability", "logprob", "entropy"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12, abs=1e-13), name
        ids.append(found.id)
    return ids


LOGITS = {
    "random": logits_of(1500),
    "peaked": np.where(np.arange(1500) == 1234, np.float32(14), logits_of(1500)),
    "flat": np.zeros(1500, np.float32),
    "half of them -Inf": np.where(np.arange(1500) % 2, -np.inf, logits_of(1500)).astype(np.float32),
    "all but three -Inf": np.where(np.isin(np.arange(1500), (0, 700, 1499)), 1.0, -np.inf).astype(np.float32),
    "ties": np.round(logits_of(1500)),
}


@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS.keys())
@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.7, seed=3), Sampling(2.5, seed=4), Sampling(1.0, min_p=0.04, seed=5), Sampling(0.05, min_p=0.5)],
    ids=str,
)
def test_draws_are_those_of_the_host(image_of: Images, logits: np.ndarray, sampling: Sampling) -> None:
    drawn = assert_draws_are_the_hosts(image_of("sample"), logits, sampling, 150, orders=1)
    likely = np.isfinite(logits) & (logits > logits.max() + sampling.temperature * np.log(max(sampling.min_p, 1e-300)))
    assert len(set(drawn)) > (1 if likely.sum() > 1 and logits is not LOGITS["peaked"] else 0), "it always draws one"


@pytest.mark.parametrize("vocabulary", [1, 2, 1023, 1024, 1025, 40_000])
def test_draws_are_those_of_the_host_in_every_order_of_threads(image_of: Images, vocabulary: int) -> None:
    for min_p in (0.0, 0.02):
        sampling = Sampling(1.5, min_p=min_p, seed=vocabulary)
        assert_draws_are_the_hosts(image_of("sample"), logits_of(vocabulary), sampling, 5)


def test_draws_from_more_blocks_than_threads_are_those_of_the_host(image_of: Images) -> None:
    logits = logits_of(300_000)
    drawn = assert_draws_are_the_hosts(image_of("sample"), logits, Sampling(3.0, seed=8), 6, orders=1)
    assert max(drawn) > 262_144 > min(drawn)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_a_tiny_temperature_takes_the_most_probable_tokens(image_of: Images, temperature: float) -> None:
    logits = np.round(logits_of(3000))
    drawn = assert_draws_are_the_hosts(image_of("sample"), logits, Sampling(temperature, seed=2), 8, orders=1)
    assert set(logits[drawn]) == {logits.max()}


def test_min_p_of_one_keeps_the_most_probable_tokens_and_nothing_else(image_of: Images) -> None:
    logits = np.round(logits_of(3000))
    drawn = assert_draws_are_the_hosts(image_of("sample"), logits, Sampling(9.0, min_p=1.0, seed=2), 8, orders=1)
    assert set(logits[drawn]) == {logits.max()}


@pytest.mark.parametrize("vocabulary", [4, 5, 2048, 3001])
def test_numbers_at_both_ends_and_on_a_border_take_the_token_behind_it(image_of: Images, vocabulary: int) -> None:
    """Of equal weights; 1 stands for a number that rounding lifts to the total."""
    logits, sampling = np.full(vocabulary, 2, np.float32), Sampling(1.0)
    logits[[0, vocabulary - 1]] = -np.inf
    likeliest = likeliest_of(image_of("sample"), logits, step(0))
    for at in (0.0, 0.5, 1 - 2**-53, 1.0):
        _, token, _ = draw(image_of("sample"), logits, step(0), at, sampling, likeliest)
        assert token[0] == 1 + min(int(at * (vocabulary - 2)), vocabulary - 3)


@pytest.mark.parametrize("bad", [{2100: np.nan, 90: -np.nan}, {2100: np.inf, 90: np.inf}, {17: np.nan, 3: np.inf}])
def test_nothing_is_drawn_from_logits_that_are_no_distribution(image_of: Images, bad: dict[int, float]) -> None:
    logits, image = logits_of(3000), image_of("sample")
    logits[list(bad)] = list(bad.values())
    likeliest = likeliest_of(image, logits, step(7, ordinal=2))
    moved, token, ring = draw(image, logits, step(7, ordinal=2), 0.5, Sampling(1.0), likeliest)
    assert (token[0], ring[2]["id"], moved["position"][0], moved["ordinal"][0]) == (np.argmax(logits),) * 2 + (8, 3)
    with pytest.raises(EngineError) as expected:
        Sampler(Sampling(1.0)).choose(logits, [])
    with pytest.raises(EngineError) as found:
        drawn_choice(ring[2], likeliest[2], np.zeros(0, CANDIDATE), logits.size)
    assert str(found.value) == str(expected.value)


def test_a_draw_moves_the_step_and_takes_its_number_and_writes_its_ring_in_turn(image_of: Images) -> None:
    logits, image, sampling = logits_of(700), image_of("sample"), Sampling(1.5)
    now = step(20, tokens=6, ordinal=4)
    moved, token, ring = draw(image, logits, now, 0.3, sampling, likeliest_of(image, logits, now))
    np.testing.assert_array_equal(moved, np.array([(26, 1, 5, 0)], STEP))
    assert token[0] == ring[1]["id"]
    assert (ring[[0, 2]] == np.full(2, 7, DRAWN)).all()
    again, _, ring = draw(image, logits, moved, 0.9, sampling, likeliest_of(image, logits, moved))
    np.testing.assert_array_equal(again, np.array([(27, 1, 6, 0)], STEP))
    assert ring[2]["id"] != token[0]


@pytest.mark.parametrize(("vocabulary", "count"), [(1, 1), (5, 8), (2049, 40), (9000, 128), (3000, 1024), (4097, 1)])
@pytest.mark.parametrize("few_values", [False, True])
def test_candidates_are_the_likeliest_in_order(image_of: Images, vocabulary: int, count: int, few_values: bool) -> None:
    logits = np.round(logits_of(vocabulary)) if few_values else logits_of(vocabulary)
    found = candidates(image_of("sample"), logits, count, ordinal=5)
    real = found[: min(vocabulary, count)]
    np.testing.assert_array_equal(real["id"], top_tokens(logits, count))
    np.testing.assert_array_equal(real["logit"], logits[real["id"]])
    assert (found[real.size :]["id"] == -1).all()


# ---- planted bugs: the tests above would see them


def top_16(image: Kernels, logits: np.ndarray) -> object:
    return candidates(image, logits, 16)


def choose(image: Kernels, logits: np.ndarray) -> object:
    return greedy(image, logits, step(0))


def draw_one(image: Kernels, logits: np.ndarray) -> object:
    return draw(image, logits, step(0), 0.6, Sampling(1.0), likeliest_of(image, logits, step(0)))


BARRIER = "__syncthreads();\n"


@pytest.mark.parametrize(
    ("run", "before"),
    [
        (top_16, "        if ((a < b) == descending) keys[low] = b, keys[high] = a;\n      }\n      "),
        (choose, "  if (lane_index() == 0) scratch[warp_index()] = own;\n  "),
        (draw_one, "  if (lane_index() == 0) of_warps[warp_index()] = own;\n  "),
    ],
)
def test_a_missing_barrier_is_found(
    build_image: Images, tmp_path: Path, run: Callable[[Kernels, np.ndarray], object], before: str
) -> None:
    source = (resources.kernels() / "sample.cu").read_text()
    assert source.count(before + BARRIER) == 1
    planted = tmp_path / f"sample_{run.__name__}.cu"
    planted.write_text(source.replace(before + BARRIER, before + "\n"))
    with pytest.raises(AssertionError, match="depends on the order of threads"):
        run(build_image(planted), logits_of(3000))
