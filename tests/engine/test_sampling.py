from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from aprtui.engine.sampling import GREEDY, Sampler, Sampling, candidates, penalize, softmax
from aprtui.errors import EngineError, UsageError

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15]))


def as_logits(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def kept(**settings: Any) -> list[int]:
    ids, probabilities = candidates(LOGITS.copy(), Sampling(**{"temperature": 1.0} | settings))
    return list(range(probabilities.size)) if ids is None else ids.tolist()


def penalized(history: list[int], sampling: Sampling, *logits: float) -> list[float]:
    array = np.array(logits, np.float64)
    penalize(array, history, sampling)
    values: list[float] = array.tolist()
    return values


def probabilities_at(temperature: float) -> np.ndarray:
    array: np.ndarray = LOGITS / temperature
    softmax(array)
    return array


def test_greedy_takes_the_largest_logit_and_the_lower_id_of_a_tie() -> None:
    assert Sampler(GREEDY).choose(as_logits(1, 3, 3, 2), []).id == 1


def test_greedy_draws_with_certainty_but_reports_the_models_probability() -> None:
    choice = Sampler(GREEDY).choose(LOGITS.astype(np.float32), [])
    assert choice.probability == 1.0
    assert choice.logprob == pytest.approx(math.log(0.4), rel=1e-6)


def test_entropy_and_margin_are_those_of_the_raw_logits_whatever_the_settings() -> None:
    plain = Sampler(GREEDY).choose(LOGITS.astype(np.float32), [])
    filtered = Sampler(Sampling(temperature=2.0, top_k=2, repeat_penalty=3.0)).choose(LOGITS.astype(np.float32), [1])
    p = np.exp(LOGITS)
    assert plain.entropy == filtered.entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-6)
    assert plain.margin == filtered.margin == pytest.approx(math.log(0.4 / 0.3), rel=1e-6)


def test_uniform_distribution_has_the_entropy_log_v_and_no_margin() -> None:
    choice = Sampler(GREEDY).choose(np.zeros(64, np.float32), [])
    assert choice.entropy == pytest.approx(math.log(64))
    assert choice.margin == 0


def test_minus_infinity_excludes_a_token_and_leaves_figures_finite() -> None:
    choice = Sampler(Sampling(temperature=1.0)).choose(as_logits(-np.inf, 0, -np.inf), [])
    assert choice.id == 1
    assert (choice.logprob, choice.entropy, choice.probability) == (0, 0, 1)
    assert choice.margin == math.inf


@pytest.mark.parametrize(
    ("logits", "said"),
    [
        ((1, np.nan, np.nan), r"2 of 3 logits are NaN \(first: token id 1\)"),
        ((0, np.inf), "token id 1 is \\+Inf"),
        ((-np.inf, -np.inf), "all logits are -Inf"),
    ],
)
def test_logits_that_are_no_distribution_are_refused_by_name(logits: tuple[float, ...], said: str) -> None:
    with pytest.raises(EngineError, match=said):
        Sampler(GREEDY).choose(as_logits(*logits), [])


def test_drawn_frequencies_are_the_tempered_probabilities() -> None:
    sampler = Sampler(Sampling(temperature=0.7, seed=0))
    drawn = np.bincount([sampler.choose(LOGITS, []).id for _ in range(20_000)], minlength=5) / 20_000
    expected = probabilities_at(0.7)
    # Four standard errors of a frequency over 20,000 draws; the seed is fixed, so this passes or fails for good.
    assert np.all(np.abs(drawn - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000))


def test_draws_follow_inverse_cdf_of_pcg64_in_token_id_order() -> None:
    random = np.random.Generator(np.random.PCG64(7))
    cumulative = np.cumsum(probabilities_at(0.7))
    sampler = Sampler(Sampling(temperature=0.7, seed=7))
    for _ in range(200):
        assert sampler.choose(LOGITS, []).id == int(np.searchsorted(cumulative, random.random(), side="right"))


def test_token_without_probability_is_not_drawn_even_by_the_smallest_number() -> None:
    class Zero(np.random.Generator):
        def random(self, *_: object, **__: object) -> Any:
            return 0.0

    sampler = Sampler(Sampling(temperature=1.0))
    sampler._random = Zero(np.random.PCG64())
    assert sampler.choose(as_logits(-np.inf, 0, 0), []).id == 1


def test_numbers_looked_at_ahead_are_drawn_with_in_turn_by_whoever_chooses_next() -> None:
    stream = np.random.Generator(np.random.PCG64(7)).random(9)
    sampler, cumulative = Sampler(Sampling(temperature=0.7, seed=7)), np.cumsum(probabilities_at(0.7))
    assert sampler.uniforms(0, 4).tolist() == stream[:4].tolist()
    assert sampler.uniforms(2, 3).tolist() == stream[2:5].tolist()
    for _ in range(2):
        sampler.chosen_elsewhere()
    drawn = [sampler.choose(LOGITS, []).id for _ in range(4)]
    assert drawn == np.searchsorted(cumulative, stream[2:6], side="right").tolist()
    sampler.chosen_elsewhere()
    assert sampler.uniforms(0, 2).tolist() == stream[7:9].tolist()


def test_greedy_choices_take_no_numbers() -> None:
    sampler = Sampler(GREEDY)
    sampler.chosen_elsewhere()
    assert sampler.uniforms(3, 2).size == 0


def test_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    def draws(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.choose(LOGITS, []).id for _ in range(50)]

    assert draws(1) == draws(1) != draws(2)


def test_top_k_keeps_the_k_most_probable_in_id_order() -> None:
    assert kept(top_k=2) == [1, 3]
    assert kept(top_k=9) == kept(top_k=0) == [0, 1, 2, 3, 4]


def test_nucleus_wider_than_the_first_guess_is_found_by_the_full_sort() -> None:
    probabilities = candidates(np.zeros(4000), Sampling(temperature=1.0, top_p=0.5))[1]
    assert probabilities.size == pytest.approx(2000, abs=1)


def test_choosing_changes_no_logits() -> None:
    logits = LOGITS.astype(np.float32)
    Sampler(Sampling(temperature=0.5, repeat_penalty=2.0)).choose(logits, [1])
    assert np.array_equal(logits, LOGITS.astype(np.float32))


def test_top_k_prefers_lower_ids_among_equals() -> None:
    ids, _ = candidates(np.zeros(6), Sampling(temperature=1.0, top_k=3))
    assert ids is not None and ids.tolist() == [0, 1, 2]


def test_top_p_keeps_the_fewest_tokens_that_reach_p() -> None:
    assert kept(top_p=0.39) == [1]
    assert kept(top_p=0.69) == [1, 3]
    assert kept(top_p=0.71) == [1, 3, 4]
    assert kept(top_p=1.0) == [0, 1, 2, 3, 4]


def test_top_p_that_rounding_never_reaches_keeps_all() -> None:
    ids, _ = candidates(np.zeros(10), Sampling(temperature=1.0, top_p=1 - 1e-16))
    assert ids is not None and len(ids) == 10


def test_min_p_is_relative_to_the_most_probable_token() -> None:
    assert kept(min_p=0.3) == [1, 3, 4]
    assert kept(min_p=1.0) == [1]


def test_filters_apply_in_the_documented_order_and_renormalise() -> None:
    ids, probabilities = candidates(LOGITS.copy(), Sampling(temperature=1.0, top_k=3, top_p=0.8))
    # After top-k the three hold 0.85: 0.4 + 0.3 are 0.82 of it, which top-p 0.8 accepts.
    assert ids is not None and ids.tolist() == [1, 3]
    assert probabilities == pytest.approx([4 / 7, 3 / 7])


def test_temperature_comes_before_top_p() -> None:
    ids, _ = candidates(LOGITS.copy(), Sampling(temperature=0.1, top_p=0.9))
    assert ids is not None and len(ids) == 1


def test_repeat_penalty_pushes_both_signs_down_once_for_each_token() -> None:
    assert penalized([0, 0, 1], Sampling(repeat_penalty=2.0), 2, -2, 1) == [1, -4, 1]


def test_repeat_penalty_looks_at_the_last_n_tokens_only() -> None:
    assert penalized([0, 1, 2], Sampling(repeat_penalty=2.0, repeat_last_n=1), 1, 1, 1) == [1, 1, 0.5]
    assert penalized([0, 1, 2], Sampling(repeat_penalty=2.0, repeat_last_n=0), 1, 1, 1) == [1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": -1}, "top-k is -1"),
        ({"top_p": 0.0}, "top-p is 0"),
        ({"top_p": 1.5}, "top-p is 1.5"),
        ({"min_p": -0.1}, "min-p is -0.1"),
        ({"repeat_penalty": 0.0}, "repeat penalty is 0"),
        ({"repeat_last_n": -1}, "repeat-last-n is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range_are_usage_errors_that_name_value_and_range(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"{said}, expected "):
        Sampling(**settings)


def test_candidates_have_the_models_own_probabilities_whatever_the_settings() -> None:
    choice = Sampler(Sampling(temperature=2.0, top_k=1), 3).choose(LOGITS.astype(np.float32), [])
    assert [candidate.id for candidate in choice.candidates] == [1, 3, 4]
    assert [candidate.probability for candidate in choice.candidates] == pytest.approx([0.4, 0.3, 0.15], rel=1e-6)
    assert Sampler(GREEDY).choose(LOGITS.astype(np.float32), []).candidates == ()
    assert len(Sampler(GREEDY, 10).choose(LOGITS.astype(np.float32), []).candidates) == LOGITS.size
