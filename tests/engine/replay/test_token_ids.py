"""Token ids of captures that record none."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from aprtui.engine.replay.token_ids import tokens_of
from aprtui.model.model import Model
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import ENTRY, Node
from tests.engine.tiny_model import DEVICE_MODELS

IDS = (7, 290, 7, 41)


@pytest.mark.parametrize("name", ["gemma2", "smollm3"])
def test_tokens_are_told_by_their_embedding_as_the_model_scales_it(name: str, tmp_path: Path) -> None:
    model = cast(Model, DEVICE_MODELS[name]())
    (table,) = model.params(Node(0, ENTRY))
    rows = table.dequantize(list(IDS)) * np.float32(model.config.embedding_scale)
    (tmp_path / "layer-0").mkdir()
    write_aprt(tmp_path / "layer-0" / f"{ENTRY}.bin", 0, rows)
    assert tokens_of(Capture.open(tmp_path), model) == IDS
