"""Names of tensors: aprender has those of transformers, the stage graph those of GGUF."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from aprtui.model.architectures.base import DENSE_MODULES, EXPERT_MODULES

_BY_MODULE: Mapping[str, str] = MappingProxyType(
    {module: name for modules in (EXPERT_MODULES, DENSE_MODULES) for name, module in modules.items()}
)
_LAYER = re.compile(r"layers\.(\d{1,6})\.")


def gguf_name(name: str) -> str:
    """What GGUF calls the tensor `model.layers.0.self_attn.q_proj.weight`: `blk.0.attn_q.weight`.

    A name that is not known comes back as it is; GGUF's own are among these.
    """
    module, dot, kind = name.rpartition(".")
    layer = _LAYER.search(module)
    found = _BY_MODULE.get(module if layer is None else module.replace(layer[0], "layers.{layer}.", 1))
    if found is None or kind not in ("weight", "bias"):
        return name
    return f"{found}{dot}{kind}" if layer is None else f"blk.{int(layer[1])}.{found}{dot}{kind}"
