"""A model of transformers called behind a cache, which has the name `cache` since 5.24 and `past_key_values` before.

Later versions take the older name as well, with a warning, until 5.40.
"""

from __future__ import annotations

import inspect
from typing import Any

_NAME, _OLDER_NAME = "cache", "past_key_values"


def called_behind(module: Any, ids: Any, cache: Any) -> Any:
    """What `module` gives for the token ids `[batch, tokens]` behind those of `cache`, to which they are added; None is
    a new one."""
    # Decorators of transformers keep the signature of what they wrap.
    name = _OLDER_NAME if _OLDER_NAME in inspect.signature(module.forward).parameters else _NAME
    return module(ids, **{name: cache}, use_cache=True)


def cache_in(found: Any) -> Any:
    """The cache among what a model was called with, or gave: a mapping, under either name; None where there is none."""
    return found[_NAME] if _NAME in found else found.get(_OLDER_NAME)
