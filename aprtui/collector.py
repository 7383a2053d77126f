"""Python's garbage collector, set for programs whose objects are nearly all made once, by imports."""

import atexit
import gc

_YOUNG_OBJECTS = 10_000
"""New objects after which Python looks for garbage; by default 700 to 2,000, which takes a sixth of a start."""


def collect_rarely() -> None:
    """Look for garbage rarely, and at the end of the process not at all: the last search takes 0.3 s with numba."""
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
