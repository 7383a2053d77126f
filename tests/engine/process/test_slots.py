from __future__ import annotations

import fcntl
import os
import platform
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, astuple, replace

import numpy as np
import pytest

from aprtui.engine.process.slots import (
    CANDIDATES,
    NO_CHOICE,
    RING,
    STATS,
    Slots,
    StatsTable,
    TokenRecord,
    candidates,
    experts_type,
)
from aprtui.engine.sampling import NO_TOKEN, Candidate
from aprtui.trace.graph.stage import Node
from aprtui.trace.stats import SUMS, Accumulator, StageStats, accumulate
from tests.engine.fake_engine import FakeEngine

NODES, LAYERS = 40, 3


@pytest.fixture
def pair() -> Iterator[tuple[Slots, Slots]]:
    descriptor = os.memfd_create("test")
    yield Slots(descriptor, NODES, LAYERS, create=True), Slots(descriptor, NODES, LAYERS, create=False)
    os.close(descriptor)


def whole(record: TokenRecord | None) -> TokenRecord:
    assert record is not None
    return record


def record(index: int) -> TokenRecord:
    stats = np.zeros(NODES, STATS)
    stats["count"], stats["rms"] = index, index
    seconds = np.full(NODES, index, np.float32)
    likeliest = candidates([Candidate(index, 0.5), Candidate(3, 0.25)], CANDIDATES)
    lens = candidates([Candidate(index, 0.5)] * LAYERS, LAYERS)
    return TokenRecord(
        1,
        index,
        7,
        index,
        1,
        -0.5,
        0.5,
        1.5,
        2.5,
        0.01,
        0.02,
        30.0,
        40.0,
        stats,
        seconds,
        likeliest,
        lens,
        5e9,
        8e10,
        0.96,
    )


def test_a_record_comes_back_as_it_was_written(pair: tuple[Slots, Slots]) -> None:
    writer, reader = pair
    assert reader.latest() is None
    writer.write(record(5))
    read = reader.latest()
    assert read is not None
    for name in TokenRecord.__slots__:
        assert np.array_equal(getattr(read, name), getattr(record(5), name)), name


def test_ring_keeps_the_last_records_and_no_more(pair: tuple[Slots, Slots]) -> None:
    writer, reader = pair
    for index in range(RING + 10):
        writer.write(record(index))
    assert reader.written == RING + 10
    assert reader.read(9) is None
    assert reader.read(RING + 10) is None
    assert [whole(reader.read(n)).index for n in range(10, RING + 10)] == list(range(10, RING + 10))


def test_record_that_is_being_overwritten_is_not_read(pair: tuple[Slots, Slots]) -> None:
    writer, reader = pair
    for index in range(RING):
        writer.write(record(index))
    writer._records[0]["begin"] = RING + 1
    assert reader.read(0) is None
    assert whole(reader.read(1)).index == 1


def test_reader_beside_a_busy_writer_never_sees_a_mixed_record(pair: tuple[Slots, Slots]) -> None:
    writer, reader = pair
    stop = threading.Event()

    def write() -> None:
        index = 0
        while not stop.is_set():
            writer.write(record(index))
            index += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = 0
        while seen < 2000:
            # The oldest record is the one that the writer is about to overwrite.
            read = reader.read(max(0, reader.written - RING))
            if read is not None:
                assert (read.stats["rms"] == read.index).all()
                assert (read.stats["count"] == read.index).all()
                assert read.candidates["token"][0] == read.index
                seen += 1
    finally:
        stop.set()
        thread.join()


READER = """
import sys
from aprtui.engine.process import slots
slots._ORDERED = ()
reader = slots.Slots(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), create=False)
print("looks", flush=True)
print(reader.read(0).token, flush=True)
"""


def test_where_stores_may_be_reordered_reader_and_writer_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    descriptor = os.memfd_create("test")
    writer = Slots(descriptor, NODES, LAYERS, create=True)
    writer.write(record(0))
    words = [sys.executable, "-c", READER, *map(str, (descriptor, NODES, LAYERS))]
    with writer._locked(fcntl.LOCK_EX):
        reader = subprocess.Popen(words, stdout=subprocess.PIPE, pass_fds=[descriptor], text=True)
        assert reader.stdout is not None and reader.stdout.readline() == "looks\n"
        assert select.select([reader.stdout], [], [], 0.2)[0] == []
    assert int(reader.stdout.readline()) == record(0).token
    assert reader.wait() == 0
    reader.stdout.close()
    os.close(descriptor)


def test_table_holds_the_same_figures_as_the_accumulators() -> None:
    graph = FakeEngine().graph
    table = StatsTable(graph)
    random = np.random.default_rng(0)
    pieces = {node: [random.normal(size=(3, 8)).astype(np.float32) for _ in range(2)] for node in graph.nodes[:4]}
    pieces[graph.nodes[1]][0][0, 0] = np.nan
    pieces[graph.nodes[2]][1][:] = -np.inf
    pieces[graph.nodes[3]] = [np.full((2, 2), np.nan, np.float32)]
    for part in range(2):
        for node, tensors in pieces.items():
            if part < len(tensors):
                table.put(node, 0, None, accumulate(tensors[part]))
    rows = table.take()
    for node, tensors in pieces.items():
        whole = Accumulator()
        for tensor in tensors:
            whole.merge(accumulate(tensor))
        assert_same(rows[graph.order[node]], whole.finish())
    assert (rows["count"][4:] == 0).all()
    assert np.isnan(rows["rms"][4:]).all()


def test_a_pass_that_comes_in_one_call_has_the_same_figures_and_is_not_overwritten_by_the_next() -> None:
    graph = FakeEngine().graph
    table, random = StatsTable(graph), np.random.default_rng(1)
    tensors = [random.normal(size=(1, 8)).astype(np.float32) for _ in graph.nodes]
    tensors[1][0, :2] = np.nan, -np.inf
    tensors[2][:] = np.inf
    sums = np.array([astuple(accumulate(tensor)) for tensor in tensors], SUMS)
    for order in (np.arange(len(tensors)), np.arange(len(tensors))[::-1].copy()):
        given = sums[order]
        table.put_sums(order, given)
        given[:] = 0
        for row, tensor in zip(table.take(), tensors, strict=True):
            assert_same(row, accumulate(tensor).finish())


def assert_same(row: np.void, stats: StageStats) -> None:
    for name, value in asdict(stats).items():
        expected = np.nan if value is None else np.float32(value)
        assert np.array_equal(row[name], expected, equal_nan=True), name


def test_table_is_empty_again_after_it_was_taken() -> None:
    table = StatsTable(FakeEngine().graph)
    table.put(Node(0, "attn_norm"), 0, None, accumulate(np.ones((1, 4), np.float32)))
    assert table.take()["count"].sum() == 4
    assert table.take()["count"].sum() == 0


def test_record_without_a_token_says_so(pair: tuple[Slots, Slots]) -> None:
    assert NO_CHOICE.id == -1


def test_record_without_a_lens_says_so_and_missing_candidates_are_no_tokens(pair: tuple[Slots, Slots]) -> None:
    writer, reader = pair
    writer.write(replace(record(1), lens=None, candidates=candidates([Candidate(5, 1.0)], CANDIDATES)))
    read = whole(reader.latest())
    assert read.lens is None and read.candidates is not None
    assert read.candidates["token"].tolist() == [5, *[NO_TOKEN] * (CANDIDATES - 1)]


def test_table_keeps_the_last_position_of_what_is_tapped_in_full() -> None:
    table = StatsTable(FakeEngine().graph)
    nodes = (Node(0, "attn_norm"), Node(1, "attn_norm"))
    assert table.take_last(nodes) is None
    for position in (0, 2):
        for layer, node in enumerate(nodes):
            values = np.full((2, 4), position + layer, np.float32) + np.arange(2, dtype=np.float32)[:, None]
            table.put(node, position, values, None)
    last = table.take_last(nodes)
    assert last is not None and np.array_equal(last, [[3.0] * 4, [4.0] * 4])
    assert table.take_last(nodes) is None


def test_experts_of_a_record_come_back() -> None:
    descriptor = os.memfd_create("test")
    writer = Slots(descriptor, NODES, LAYERS, create=True, experts=5)
    rows = np.zeros(LAYERS, experts_type(5))
    rows["counts"], rows["dropped"], rows["entropy"] = np.arange(LAYERS * 5).reshape(LAYERS, 5), 3, 1.25
    writer.write(replace(record(1), experts=rows))
    read = whole(Slots(descriptor, NODES, LAYERS, create=False, experts=5).latest())
    assert read.experts is not None
    for name in ("counts", "dropped", "entropy"):
        np.testing.assert_array_equal(read.experts[name], rows[name])
    assert read.device_load == record(1).device_load and read.lens is not None
    os.close(descriptor)
