"""Ops that choose places: judged by the values there, so that the order of equal ones does not matter."""

from __future__ import annotations

import numpy as np

from aprtui.recordings.memory import Values
from aprtui.recordings.ops.operands import Operands


def argsort(op: Operands) -> Values:
    values = op.values(0)
    return np.argsort(-values if op.whole("descending") else values, axis=-1, kind="stable").astype(np.int32)


def top_k(op: Operands) -> Values:
    return np.argsort(-op.values(0), axis=-1, kind="stable")[..., : op.shape[-1]].astype(np.int32)


def argmax(op: Operands) -> Values:
    return np.asarray(op.values(0)[0, 0].argmax(-1).reshape(op.shape))
