"""Reading the stages of captures whose run may not have finished.

Until a capture is whole its files have no header, or are not there yet: that is no corruption, and what was written
can still be looked at.
"""

from __future__ import annotations

from aprtui.compare.metrics.blocks import Values
from aprtui.trace.aprt import AprtError
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node

NOT_WRITTEN = "not written: the run did not finish"


def is_unfinished(capture: Capture) -> bool:
    """Whether a manifest says anything but that its run finished; without a manifest nothing says so."""
    return capture.complete is not None and capture.complete is not True


def written_values(capture: Capture, node: Node) -> Values | None:
    """The values of `node`, None where the run ended before they were written.

    Raises `KeyError` for a node without a file, `AprtError` for a broken file of a capture that did finish.
    """
    try:
        return capture.values(node)
    except AprtError:
        if is_unfinished(capture):
            return None
        raise
