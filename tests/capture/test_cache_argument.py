"""The cache of a model of transformers has had two names; each version is called by its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

from aprtui.capture.cache_argument import cache_in, called_behind

IDS, CACHE = object(), object()


class Module:
    """Like one of torch: called by its own name, with a `forward` that may be decorated."""

    def __init__(self, forward: Callable[..., dict[str, Any]]) -> None:
        self.forward = forward

    def __call__(self, *ids: Any, **options: Any) -> dict[str, Any]:
        return self.forward(*ids, **options)


def older(input_ids: Any = None, past_key_values: Any = None, use_cache: bool = False) -> dict[str, Any]:
    return {"past_key_values": past_key_values, "used": use_cache, "ids": input_ids}


def newer(input_ids: Any = None, cache: Any = None, use_cache: bool = False) -> dict[str, Any]:
    return {"cache": cache, "used": use_cache, "ids": input_ids}


@wraps(newer)
def renaming(*ids: Any, **options: Any) -> dict[str, Any]:
    """As transformers decorates it from 5.24 to 5.40."""
    assert "past_key_values" not in options, "warns that this is the older name"
    return newer(*ids, **options)


@pytest.mark.parametrize("forward", [older, newer, renaming])
def test_each_version_is_called_by_its_own_name(forward: Callable[..., dict[str, Any]]) -> None:
    found = called_behind(Module(forward), IDS, CACHE)
    assert cache_in(found) is CACHE and found["used"] and found["ids"] is IDS


def test_what_has_no_cache_has_none() -> None:
    assert cache_in({}) is None and cache_in({"cache": None}) is None
