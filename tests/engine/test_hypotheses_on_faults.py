"""What planted bugs look like: the hypotheses on a replay of each kind of fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.compare.comparison import Comparison, Support
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Mode
from aprtui.model.model import Model
from tests.engine.embedded_captures import TOKENS

LOOKS_LIKE = {
    "stage=ffn_up,kind=scale": "a constant factor",
    "stage=qkv_bias,kind=bias-dropped": "one vector at all tokens",
    "stage=ffn_norm,kind=eps": "a factor for each token",
    "stage=k_post_rope,kind=rope-interleaved": "the other RoPE layout",
    "stage=k_post_rope,kind=rope-theta": "RoPE angle",
    "stage=q_post_rope,kind=position-off-by-one": "RoPE angle",
    "stage=attention,kind=head-swap": "heads in another order",
    "stage=ffn_up,kind=transpose-block": "a block of channels",
    "stage=ffn_up,kind=block-scale": "single output channels",
    "stage=ffn_up,kind=block-sign": "single output channels",
    "stage=ffn_out,kind=zero-tail": "zeros",
    "stage=ffn_out,kind=stale-token": "stale token",
    "stage=attn_softmax,kind=mask-off-by-one": "positions, mask or K/V cache",
    "stage=ffn_out,kind=nan": "NaN or Inf",
    "stage=ffn_out,kind=zero-channel": "zeros",
    "stage=ffn_gate,kind=gate-up-swap": "another tensor",
    "stage=post_ffn_residual,kind=residual-dropped": "another tensor",
    "stage=ffn_out,kind=noise": "noise",
}


@pytest.mark.parametrize("text", LOOKS_LIKE)
def test_a_planted_bug_looks_like_what_it_is(
    model: Model, replay: Callable[..., Comparison], tmp_path: Path, text: str
) -> None:
    fault = parse_fault(f"layer=2,{text}", model)
    engine = open_engine(model, context=32, intervention=FaultInjector(model, Mode.EXACT, [fault]))
    write_capture(engine, model, CaptureRequest(TOKENS, None, frozenset(model.graph.nodes)), tmp_path / "a")
    engine.close()
    result = replay(tmp_path / "a")
    assert result.first_divergence is not None and result.first_divergence.verdict.node == fault.node
    supported = {found.name for found in result.hypotheses if found.support is Support.SUPPORTED}
    assert LOOKS_LIKE[text] in supported
