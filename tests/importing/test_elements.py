"""Stored numbers become the float32 that they are, NaN with its payload."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from aprtui.importing.elements import ELEMENTS


def bits(kind: str, *codes: int) -> list[int]:
    """The float32 bits of numbers of a type, given by their own bits."""
    element = ELEMENTS[kind]
    raw = np.array(codes, f"<u{element.size}").view(np.uint8)
    return [int(value) for value in element.to_floats(raw).view(np.uint32)]


def test_nan_keeps_its_payload_and_its_sign() -> None:
    assert bits("F32", 0x7FC00123, 0xFF800001, 0x80000000) == [0x7FC00123, 0xFF800001, 0x80000000]
    assert bits("BF16", 0x7FC1, 0xFF81) == [0x7FC10000, 0xFF810000]
    assert bits("F16", 0x7E01, 0xFC01) == [0x7FC02000, 0xFF802000]
    assert bits("F8_E5M2", 0x7D) == [0x7FA00000]


@pytest.mark.parametrize(
    ("kind", "code", "value"),
    [
        ("F16", 0x3C01, 1 + 2**-10), ("F16", 0x0001, 2**-24), ("F16", 0xFC00, -np.inf),
        ("BF16", 0x3F81, 1 + 2**-7),
        ("F8_E4M3", 0x7E, 448.0), ("F8_E4M3", 0x01, 2**-9), ("F8_E4M3", 0xB8, -1.0),
        ("F8_E5M2", 0x7B, 57344.0), ("F8_E5M2", 0x7C, np.inf),
        ("I64", 2**24, 16777216.0), ("BOOL", 1, 1.0),
    ],
)  # fmt: skip
def test_numbers_of_every_type_are_what_they_are(kind: str, code: int, value: float) -> None:
    assert bits(kind, code) == [int(np.float32(value).view(np.uint32))]


def test_double_precision_is_rounded_once() -> None:
    found = ELEMENTS["F64"].to_floats(np.array([1 + 2**-23, 1 + 2**-24, 1e-300, 1e300, np.nan]).view(np.uint8))
    assert np.array_equal(found, np.array([1 + 2**-23, 1, 0, np.inf, np.nan], np.float32), equal_nan=True)


@pytest.mark.group("torch")
@pytest.mark.parametrize(("kind", "name"), [("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2")])
def test_every_code_of_eight_bits_is_that_of_torch(kind: str, name: str) -> None:
    torch = importlib.import_module("torch")
    codes = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(codes.copy()).view(getattr(torch, name)).float().numpy()
    assert np.array_equal(ELEMENTS[kind].to_floats(codes), expected, equal_nan=True)
