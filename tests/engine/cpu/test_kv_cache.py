"""The K/V cache in memory: what is written comes back rounded as its type says, bit for bit, as key and as value."""

from __future__ import annotations

from contextlib import closing

import gguf
import numpy as np
import pytest

from aprtui.engine.cpu import storage as storage_module
from aprtui.engine.cpu.engine import CpuEngine
from aprtui.engine.cpu.kv_cache import key_tile, kv_number, padded, put_key, put_value, rows_of, tile_bytes, value_tile
from aprtui.engine.cpu.vectors import LANES
from aprtui.engine.kv_types import cache_bytes, round_kv
from aprtui.engine.protocol import KvType, Logits, Mode, Taps
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import Node
from tests.engine.conformance import Recorder
from tests.engine.tiny_model import MODELS

ROWS = 21
QUANTISED = (KvType.Q8_0, KvType.Q4_0)


def rows(width: int) -> np.ndarray:
    """Gaussians of many magnitudes, with ties, halves, signed zeros, an empty block, the smallest and largest scales,
    NaN and Inf."""
    rng = np.random.default_rng(width)
    x = rng.standard_normal((ROWS, width), np.float32) * np.float32(10) ** rng.integers(-6, 4, (ROWS, 1))
    x[0, :8] = (127, -127, 0.5, 1.5, -0.5, -2.5, 0.0, -0.0)
    x[0, 8:32] = np.arange(24) / 2
    x[1, :32] = 0
    x[2, :32] = 1e-40
    x[3, :32] = (-8, 8, *np.arange(-7.5, 7.5, 0.5))
    x[4, :32] *= np.float32(1e6) / np.abs(x[4, :32]).max()
    x[5, 3], x[6, 4], x[7, 5] = np.nan, np.inf, -np.inf
    return np.ascontiguousarray(x, np.float32)


def stored(kv: KvType, op: Op, x: np.ndarray) -> np.ndarray:
    """Tiles `[1, tiles, bytes]` of a head with `x` written into them."""
    number, width = kv_number(kv), x.shape[1]
    size = tile_bytes(number, padded(width) if op is Op.ATTEND else width)
    tiles, scratch = np.zeros((1, -(-len(x) // LANES), size), np.uint8), np.zeros(64, np.uint8)
    for position, row in enumerate(x):
        if op is Op.ATTEND:
            put_value(number, row.ctypes.data, width, tiles.ctypes.data, position)
        else:
            put_key(number, row.ctypes.data, width, tiles.ctypes.data, position, scratch.ctypes.data)
    return tiles


@pytest.mark.parametrize("op", [Op.SCORES, Op.ATTEND])
@pytest.mark.parametrize("kv", list(KvType))
def test_a_cache_gives_back_what_its_type_rounds_to(kv: KvType, op: Op) -> None:
    x = rows(96)
    found = rows_of(kv, op, stored(kv, op, x), 96).reshape(-1, 96)[:ROWS].astype(np.float32)
    np.testing.assert_array_equal(found, round_kv(kv, x))


@pytest.mark.parametrize("op", [Op.SCORES, Op.ATTEND])
@pytest.mark.parametrize("kv", list(KvType))
def test_a_widened_tile_has_the_same_values(kv: KvType, op: Op) -> None:
    width = 64
    tiles, scratch = stored(kv, op, rows(width)), np.zeros(LANES * width, np.float32)
    widen = value_tile if op is Op.ATTEND else key_tile
    for index in range(tiles.shape[1]):
        tile = tiles[:, index : index + 1]
        address = widen(kv_number(kv), tile.ctypes.data, width, scratch.ctypes.data)
        values = tile.view(np.float32).reshape(-1) if address == tile.ctypes.data else scratch
        found = values.reshape(LANES, width) if op is Op.ATTEND else values.reshape(width, LANES).T
        np.testing.assert_array_equal(found, rows_of(kv, op, np.ascontiguousarray(tile), width).reshape(LANES, width))


def test_every_float16_widens_exactly() -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    wide = np.empty(65536, np.float32)
    assert value_tile(kv_number(KvType.F16), patterns.ctypes.data, 65536 // LANES, wide.ctypes.data) == wide.ctypes.data
    np.testing.assert_array_equal(wide, patterns.view(np.float16).astype(np.float32))
    assert np.signbit(wide[0x8000])


def test_values_in_q4_0_are_the_blocks_of_gguf() -> None:
    x = rows(64)[8:]
    found = stored(KvType.Q4_0, Op.ATTEND, x).reshape(-1, 36)[: len(x)]
    np.testing.assert_array_equal(found, gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q4_0))


def test_values_in_q8_0_are_decoded_by_gguf() -> None:
    x = rows(64)[8:]
    found = stored(KvType.Q8_0, Op.ATTEND, x).reshape(-1, 68)[: len(x)]
    decoded = gguf.quants.dequantize(found, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(decoded, round_kv(KvType.Q8_0, x))


@pytest.mark.parametrize(("kv", "bits"), [(KvType.F32, 32), (KvType.F16, 16), (KvType.Q8_0, 8.5), (KvType.Q4_0, 4.5)])
def test_a_cache_takes_the_bits_of_its_type(kv: KvType, bits: float) -> None:
    assert cache_bytes(kv, 128) * 8 == 128 * bits
    assert tile_bytes(kv_number(kv), 128) == LANES * cache_bytes(kv, 128)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("kv", QUANTISED)
def test_an_engine_keeps_the_keys_and_values_that_it_hands_out(kv: KvType, mode: Mode) -> None:
    model, recorder, tokens = MODELS["qwen2"](), Recorder(), list(range(30, 53))
    nodes = frozenset(model.graph.nodes)
    with closing(CpuEngine(model, mode, kv, 2, 64)) as engine:  # type: ignore[arg-type]
        engine.forward(tokens[:19], Taps(recorder, nodes))
        for token in tokens[19:]:
            engine.forward([token], Taps(recorder, nodes))
        storage = engine._runner.storage
        keys, values = (storage.cached(op, 1, len(tokens)) for op in (Op.SCORES, Op.ATTEND))
    np.testing.assert_array_equal(keys, round_kv(kv, recorder.tensor(Node(1, "k_post_rope"))))
    fused = recorder.tensor(Node(1, "qkv_bias"))[:, model.config.graph.part(Part.V)]
    np.testing.assert_array_equal(values, round_kv(kv, np.ascontiguousarray(fused)))


@pytest.mark.parametrize("kv", QUANTISED)
def test_threads_chunks_and_going_back_change_no_bit(kv: KvType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of 16 positions share a tile, and several threads may write one."""
    model, tokens = MODELS["qwen3"](), [int(token) for token in np.random.default_rng(1).integers(0, 300, 45)]
    with closing(CpuEngine(model, Mode.Q8, kv, 1, 64)) as engine:  # type: ignore[arg-type]
        expected = engine.forward(tokens, logits=Logits.ALL)
    monkeypatch.setattr(storage_module, "MOST_TOKENS", 11)
    with closing(CpuEngine(model, Mode.Q8, kv, 5, 64)) as engine:  # type: ignore[arg-type]
        np.testing.assert_array_equal(engine.forward(tokens, logits=Logits.ALL), expected)
        engine.reset(21)
        engine.forward([7, 8, 9])
        engine.reset(21)
        np.testing.assert_array_equal(engine.forward(tokens[21:], logits=Logits.ALL), expected[21:])
