"""What a model needs on a device, and what the kernels cannot take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aprtui.engine.cuda.sizes import require_supported
from aprtui.errors import EngineError
from aprtui.model.weight_types import WeightType
from tests.engine.tiny_model import tiny_model


def test_a_weight_type_without_a_struct_in_the_kernels_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(kinds=(WeightType.Q4_K, WeightType.Q5_0))
    require_supported(model)  # type: ignore[arg-type]
    monkeypatch.setattr(WeightType.Q5_0, "format", replace(WeightType.Q5_0.format, cuda_struct=None))
    with pytest.raises(EngineError, match=r"attn_q\.weight is stored as Q5_0, which its kernels cannot read: use --b"):
        require_supported(model)  # type: ignore[arg-type]
