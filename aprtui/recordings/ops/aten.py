"""PyTorch's own ops in float64: each called again with its sources widened, as the dispatcher called it.

Only ops of the list are called, with arguments that are numbers, types and recorded tensors.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from aprtui.engine.rounding import ROUND
from aprtui.recordings.element_types import BF16
from aprtui.recordings.memory import Values
from aprtui.recordings.ops.operands import Operands, OpWay, OpWays
from aprtui.trace.json_value import json_number

SOURCE = "source"
"""In the arguments of a node: the number of the source that stands there."""

_NAME = re.compile(r"aten\.([a-z0-9_]+)\.([a-zA-Z0-9_]+)")
_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "int32": "i32",
        "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "bool",
    }
)  # fmt: skip
_FLOATS = ("float64", "float32", "float16", "bfloat16")

_FAITHFUL = """
abs add addcmul addmm all amax amin any arange argmax argmin argsort baddbmm bincount bitwise_and bitwise_not
bitwise_or bmm cat ceil clamp clamp_min clone constant_pad_nd convolution copy cos cumsum div embedding eq erf exp
exp2 expm1 fill floor floor_divide full full_like gather ge gelu gt histc index index_add index_copy index_put
index_select isin linalg_solve_triangular le linalg_vector_norm log log1p log_softmax logical_and logical_not
logical_or logsumexp lt masked_fill max maximum mean min minimum mm mul native_layer_norm ne neg new_full new_ones
new_zeros one_hot ones ones_like pow reciprocal relu remainder repeat repeat_interleave rsqrt rsub scalar_tensor
scatter scatter_add sigmoid silu sin softplus sort sqrt square stack sub sum tanh topk tril triu where zeros
zeros_like _fused_rms_norm _log_softmax _scaled_dot_product_flash_attention_for_cpu _softmax _to_copy _unsafe_view
"""
_IN_PLACE = """
add_ clamp_ copy_ cumsum_ div_ exp_ fill_ floor_ index_add_ index_copy_ index_put_ masked_fill_ mul_ neg_ scatter_
sigmoid_ silu_ sub_ tril_ triu_ zero_
"""
FAITHFUL = frozenset((_FAITHFUL + _IN_PLACE).split())
"""Ops of aten whose kernel for float64 is the reference."""
_MAKERS = frozenset(
    "arange bincount constant_pad_nd full histc new_full new_ones new_zeros one_hot ones repeat zeros".split()  # noqa: SIM905
)
"""Ops that make as many values as their arguments say."""
_OPEN_END = 2**63 - 1


def _grouped_mm(x: Any, matrices: Any, ends: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """Rows of x times the matrix of their group, each of which ends before a row: `[rows, columns]`."""
    if ends is None or bias is not None or x.ndim != 2 or matrices.ndim != 3:
        raise ValueError("grouped products of this kind are not modelled")
    out, start = x.new_zeros(x.shape[0], matrices.shape[2]), 0
    for matrix, end in zip(matrices, ends.tolist(), strict=True):
        out[start:end] = x[start:end] @ matrix
        start = end
    return out


_OWN: Mapping[str, Callable[..., Any]] = MappingProxyType({"_grouped_mm": _grouped_mm})
"""Ops of which torch has no kernel for float64."""


_FAST_EXPONENTIAL = 2.0**-14
"""Relative error of the exponential of torch's attention of short floats, where rows have 8 keys or more.

Measured with torch 2.13 on AVX2: sums of a row are off by up to 6e-5; with float32 inputs by 4e-7.
"""
_ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu.default"


def _attention(args: Sequence[Any], kwargs: Mapping[str, Any], rounded: Callable[[Any], Any], torch: Any) -> Any:
    """Attention whose probabilities, relative to the largest of a row, are rounded before they meet the values, as
    torch's kernel for short floats does it."""
    query, key, value = args[:3]
    causal = bool(args[4]) if len(args) > 4 else bool(kwargs.get("is_causal", False))
    scale, mask = kwargs.get("scale"), kwargs.get("attn_mask")
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype is torch.bool else scores + mask
    shares = (scores - scores.amax(-1, keepdim=True)).exp()
    short = torch.from_numpy(rounded(shares.numpy().astype(np.float32)).astype(np.float64))
    return short @ value.repeat_interleave(groups, 1) / shares.sum(-1, keepdim=True)


def aten_way(name: str) -> bool:
    """Whether an op of that name is modelled."""
    found = _NAME.fullmatch(name)
    return found is not None and (found[1] in FAITHFUL or found[1] in _OWN)


def type_name(dtype: Any) -> str:
    """What a recording calls a type of torch; its own name where there is none."""
    name = str(dtype).removeprefix("torch.")
    return _TYPES.get(name, name)


def compute(op: Operands) -> OpWays:
    """The output of a node in float64.

    Raises `ValueError` for an op that torch does not have, and for arguments that are none.
    """
    torch = importlib.import_module("torch")
    found = _NAME.fullmatch(op.node.op)
    function = getattr(getattr(torch.ops.aten, found[1], None), found[2], None) if found else None
    if found and found[1] in _OWN:
        function = _OWN[found[1]]
    if function is None:
        raise ValueError(f"this torch has no {op.node.op}")
    tensors = [None if source is None else _tensor(op, index, torch) for index, source in enumerate(op.sources)]
    args, kwargs = op.node.params.get("args"), op.node.params.get("kwargs")
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise TypeError("arguments are missing")
    _require_small(found[1] if found else "", op, args)
    args, kwargs = _decoded(args, tensors, torch), _decoded(kwargs, tensors, torch)
    kind = op.source(0).type if op.node.op == _ATTENTION and not op.exact else ""
    is_fast = kind in ("f16", BF16)
    if is_fast and op.place == 0:
        shares = _attention(args, kwargs, ROUND[kind], torch)
        yield OpWay(_values(shares, torch), f"probabilities in {kind}", flips=True, disturbance=_FAST_EXPONENTIAL)
    with torch.no_grad():
        try:
            result = function(*args, **kwargs)
        except (RuntimeError, NotImplementedError) as error:
            raise ValueError(str(error).partition("\n")[0][:80]) from error
    leaves = [value for value in _flat(result) if isinstance(value, torch.Tensor)]
    if is_fast and op.place == 1:
        yield OpWay(_values(leaves[1], torch), "a fast exponential", disturbance=_FAST_EXPONENTIAL)
    else:
        yield OpWay(_values(leaves[op.place], torch))


def _require_small(name: str, op: Operands, args: Sequence[Any]) -> None:
    """Raise `ValueError` where an op would make more values than were recorded: a size is only a number in a file."""
    size = int(np.prod(op.shape, dtype=object))
    numbers = [int(n) for value in args for n in _flat(value) if isinstance(n, int) and not isinstance(n, bool)]
    if name in _MAKERS and any(number > 64 * max(size, 1) and number != _OPEN_END for number in numbers):
        raise ValueError(f"would make more than the {size} values that were recorded")


def _tensor(op: Operands, index: int, torch: Any) -> Any:
    values = np.array(op.values(index))
    tensor = torch.from_numpy(values)
    return tensor.bool() if op.source(index).type == "bool" else tensor


def _decoded(value: Any, tensors: Sequence[Any], torch: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(entry, tensors, torch) for entry in value]
    if isinstance(value, dict):
        if set(value) == {SOURCE}:
            return tensors[int(value[SOURCE])]
        if set(value) == {"constant"}:
            return _constant(str(value["constant"]), torch)
        return {str(key): _decoded(entry, tensors, torch) for key, entry in value.items()}
    return json_number(value)


def _constant(text: str, torch: Any) -> Any:
    """A type, layout, format or device by its text; short floats as float64, devices as this one."""
    name = text.removeprefix("torch.")
    if name in _FLOATS:
        return torch.float64
    if name in (*_TYPES, "strided", "contiguous_format", "preserve_format"):
        return getattr(torch, name)
    if name.partition(":")[0] in ("cpu", "cuda", "mps", "xpu"):
        return torch.device("cpu")
    raise ValueError(f"an argument {text!r:.40}")


def _flat(value: Any) -> list[Any]:
    return [leaf for entry in value for leaf in _flat(entry)] if isinstance(value, list | tuple) else [value]


def _values(tensor: Any, torch: Any) -> Values:
    if tensor.dtype is torch.bool:
        tensor = tensor.to(torch.uint8)
    return np.asarray(tensor.contiguous().numpy())
