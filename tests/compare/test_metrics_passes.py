"""The compiled pass against numpy's, and both against direct definitions; threads and pieces change no bit."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.metrics import passes, totals
from aprtui.compare.metrics.measure import Measurement, measure
from aprtui.compare.metrics.totals import Totals

pytest.importorskip("numba")

Values = NDArray[np.float32]

SHAPES = [((7, 1300), False), ((1, 5), False), ((9, 3), False), ((3, 33, 33), True), ((2, 70_001), False),
          ((140_001,), False), ((37, 2500), False), ((0, 4), False), ((2, 0, 0), True), ((0,), False)]  # fmt: skip


def pair(shape: tuple[int, ...], seed: int, special: float = 0.0) -> tuple[Values, Values]:
    random = np.random.default_rng(seed)
    a = (random.standard_normal(shape) + 0.5).astype(np.float32)
    b = (a * 1.01 + 1e-3 * random.standard_normal(shape)).astype(np.float32)
    b[random.random(shape) < 0.3] *= 1  # a copy of the same bits is made below
    alike = random.random(shape) < 0.2
    b[alike] = a[alike]
    for side in (a, b):
        for value in (np.nan, np.inf, -np.inf):
            side[random.random(shape) < special] = value
    return a, b


def by(monkeypatch: pytest.MonkeyPatch, small: int, a: Values, b: Values, causal: bool) -> Measurement:
    monkeypatch.setattr(totals, "SMALL", small)
    return measure(a, b, causal=causal)


def assert_same(left: Measurement, right: Measurement) -> None:
    numbers, others = asdict(left.metrics), asdict(right.metrics)
    for name, number in numbers.items():
        if isinstance(number, float):
            assert others[name] == pytest.approx(number, rel=1e-12, abs=0 if math.isinf(number) else 1e-14), name
        else:
            assert others[name] == number, name
    np.testing.assert_allclose(left.tokens, right.tokens, rtol=1e-12)


@pytest.mark.parametrize("special", [0.0, 0.02, 0.9])
@pytest.mark.parametrize(("shape", "causal"), SHAPES)
def test_compiled_and_numpy_measure_alike(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], causal: bool, special: float
) -> None:
    a, b = pair(shape, 1, special)
    assert_same(by(monkeypatch, 0, a, b, causal), by(monkeypatch, 1 << 60, a, b, causal))


@pytest.mark.parametrize("special", [0.0, 0.02])
@pytest.mark.parametrize(("shape", "causal"), SHAPES[:7])
def test_number_of_threads_and_size_of_pieces_change_no_bit(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], causal: bool, special: float
) -> None:
    a, b = pair(shape, 2, special)
    results = []
    for threads, piece in ((1, 1 << 21), (2, 1 << 21), (5, 1 << 21), (3, 4 * shape[-1])):
        monkeypatch.setattr(passes, "most_threads", lambda threads=threads: threads)
        monkeypatch.setattr(passes, "PIECE", piece)
        results.append(by(monkeypatch, 0, a, b, causal))
    for other in results[1:]:
        assert repr(other.metrics) == repr(results[0].metrics)
        assert other.tokens.tobytes() == results[0].tokens.tobytes()


@pytest.mark.parametrize("small", [0, 1 << 60])
def test_views_are_measured_where_they_lie(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    a, b = pair((4, 40, 48), 3)
    views = [
        (a[:, :30, :30], b[:, :30, :30], True),
        (a[1, 5:, :], b[2, 5:, :], False),
        (a[0, -1:], b[0, -1:], False),
        (a[0][:, ::-1], b[0][:, ::-1], False),
        (a[0][:, 8:16], b[0][:, 8:16], False),
        (a[0][::-1], b[0], False),
        (np.asfortranarray(a[0]), b[0], False),
    ]
    for left, right, causal in views:
        whole = by(monkeypatch, small, np.array(left), np.array(right), causal)
        assert_same(by(monkeypatch, small, left, right, causal), whole)


@pytest.mark.parametrize("small", [0, 1 << 60])
def test_measures_are_those_of_the_definitions(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    a, b = pair((600, 300), 4)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    d = wide_b - wide_a
    m = by(monkeypatch, small, a, b, False).metrics
    assert m.bias == pytest.approx(d.mean(), rel=1e-12)
    assert m.sigma_ratio == pytest.approx(wide_b.std() / wide_a.std(), rel=1e-12)
    assert m.rel_linf == np.abs(d).max() / np.abs(wide_a).max()
    top = np.argsort(-(wide_a**2 + wide_b**2).sum(0))[:2]  # one in 128 of 300
    rest_a, rest_b = np.delete(wide_a, top, 1), np.delete(wide_b, top, 1)
    expected = (rest_a * rest_b).sum() / math.sqrt((rest_a**2).sum() * (rest_b**2).sum())
    assert m.cosine_without_top == pytest.approx(expected, rel=1e-12)
    for name, share in (("q50", 0.5), ("q90", 0.9), ("q99", 0.99), ("q999", 0.999)):
        expected = np.quantile(np.abs(d), share, method="inverted_cdf")
        assert asdict(m)[name] == pytest.approx(expected, rel=0.008), name


@pytest.mark.parametrize("small", [0, 1 << 60])
def test_token_errors_are_those_of_rows(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    a, b = pair((6, 50), 5)
    a[2], b[2] = 0, 0
    a[3] = 0
    b[4, 7] = np.nan
    a[5], b[5] = np.nan, np.nan
    tokens = by(monkeypatch, small, a, b, False).tokens
    norms = np.linalg.norm(a.astype(np.float64), axis=1)
    norms[4] = np.linalg.norm(np.delete(a[4].astype(np.float64), 7))
    floor = 1e-3 * math.sqrt((norms[:5] ** 2).mean())
    for t in (0, 1):
        assert tokens[t] == pytest.approx(np.linalg.norm(b[t].astype(np.float64) - a[t]) / norms[t], rel=1e-12)
    assert tokens[2] == 0
    assert tokens[3] == pytest.approx(np.linalg.norm(b[3].astype(np.float64)) / floor, rel=1e-12)
    assert tokens[4] == math.inf
    assert math.isnan(tokens[5])


def test_token_errors_of_attention_maps_are_those_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair((3, 5, 5), 6)
    for small in (0, 1 << 60):
        tokens = by(monkeypatch, small, a, b, True).tokens
        for query in range(5):
            left, right = a[:, query, : query + 1].astype(np.float64), b[:, query, : query + 1].astype(np.float64)
            assert tokens[query] == pytest.approx(np.linalg.norm(right - left) / np.linalg.norm(left), rel=1e-12)


@pytest.mark.parametrize("small", [0, 1 << 60])
def test_first_positions_of_nan_and_inf_are_kept(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    a, b = pair((40, 700), 7)
    a[3, 2:7], b[3, 3], b[30, 699] = np.nan, np.nan, -np.inf
    a[31, 0] = np.inf
    m = by(monkeypatch, small, a, b, False).metrics
    assert (m.first_nan_a, m.first_nan_b) == ((2102, 2103, 2104), (2103,))
    assert (m.first_inf_a, m.first_inf_b) == ((31 * 700,), (30 * 700 + 699,))
    assert (m.nan_a, m.mismatches, m.first_mismatch) == (5, 6, 2102)


@pytest.mark.parametrize("small", [0, 1 << 60])
def test_first_positions_are_the_least_whatever_order_blocks_are_taken_in(
    monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    a, b = pair((48, 5000), 12)
    places = [(0, 4999), (1, 3000), (2, 0), (3, 1), (4, 2), (5, 3)]
    for row, column in places:
        a[row, column], b[row, column] = np.nan, np.inf
    m = by(monkeypatch, small, a, b, False).metrics
    assert m.first_nan_a == m.first_inf_b == (4999, 8000, 10_000)


@pytest.mark.parametrize("small", [0, 1 << 60])
@pytest.mark.parametrize("scale", [1e38, 1e-44])
def test_numbers_at_the_ends_of_float32_are_measured(monkeypatch: pytest.MonkeyPatch, small: int, scale: float) -> None:
    a = np.array([[3, -3, 1, 2]], np.float32) * np.float32(scale)
    m = by(monkeypatch, small, a, -a, False).metrics
    expected = 2 * np.abs(a.astype(np.float64)).max()
    assert (m.max_abs, m.max_abs_index, m.cosine) == (expected, 0, -1) and m.rel_l2 == pytest.approx(2)
    assert m.q999 == expected


@pytest.mark.parametrize("small", [0, 1 << 60])
def test_a_constant_has_no_spread(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    constant = np.full((30, 40), 1.1, np.float32)
    varying = pair((30, 40), 8)[0]
    assert by(monkeypatch, small, constant, constant + 1, False).metrics.sigma_ratio == 1
    assert by(monkeypatch, small, constant, varying, False).metrics.sigma_ratio == math.inf
    assert by(monkeypatch, small, varying, constant, False).metrics.sigma_ratio == 0


def test_massive_channels_do_not_hide_the_rest() -> None:
    a, b = pair((50, 256), 9)
    a[:, 17], b[:, 17] = 1e4, 1e4
    b[:, 100:] *= -1
    m = measure(a, b).metrics
    assert m.cosine is not None and m.cosine > 0.999
    assert m.cosine_without_top is not None and m.cosine_without_top < 0.5
    assert measure(a[:, :1], b[:, :1]).metrics.cosine_without_top is None
    assert measure(a[0], b[0]).metrics.cosine_without_top is None


def test_progress_ends_with_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(totals, "SMALL", 0)
    a, b = pair((30, 50), 10)
    measure(a, b, progress=lambda what, done, total: seen.append((done, total)))
    assert seen[-1] == (1500, 1500)


def test_an_interrupt_ends_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair((64, 4096), 11)
    monkeypatch.setattr(totals, "SMALL", 0)
    monkeypatch.setattr(passes, "PIECE", 4096)

    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(a, b, progress=interrupt)


def test_parts_cover_all_rows_once() -> None:
    from aprtui.compare.metrics.blocks import Rows

    for shape, causal in SHAPES:
        found = Totals.of(Rows.of(shape, causal))
        assert found.bounds[0] == 0 and found.bounds[-1] == found.rows.count
        assert list(found.bounds) == sorted(found.bounds)
