"""The numbers of a model that its stage graph does not need: context, norm epsilon, RoPE, scales, softcaps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.graph import GraphConfig, Stage


class RopeAngles(StrEnum):
    """How the angles are computed. At position 600 the two differ by 1e-5.

    `f32-recurrence` is ggml's way (`ggml_rope_cache_init`): the position times theta^(−2/d) once a pair, in float32.
    """

    F64 = "f64"
    F32_RECURRENCE = "f32-recurrence"


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864).

    `factors` are the per-frequency divisors of Llama 3 models (`rope_freqs.weight`), or None; `scale` divides the
    position (linear scaling; 1.0 for none).
    """

    theta: float
    scale: float = 1.0
    factors: tuple[float, ...] | None = None

    def angles(
        self, first: int, count: int, head_dim: int, arithmetic: RopeAngles = RopeAngles.F64
    ) -> NDArray[np.float64]:
        """Radians of each channel pair at positions `first … first + count - 1`, shape `[count, head_dim / 2]`."""
        divisors = np.ones(head_dim // 2) if self.factors is None else np.asarray(self.factors, np.float64)
        positions = np.arange(first, first + count)
        if arithmetic is RopeAngles.F32_RECURRENCE:
            return self._recurrence(positions.astype(np.float32), divisors.astype(np.float32), head_dim)
        exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        return np.asarray(positions[:, None] * (self.theta**-exponents / self.scale / divisors), np.float64)

    def _recurrence(
        self, positions: NDArray[np.float32], divisors: NDArray[np.float32], head_dim: int
    ) -> NDArray[np.float64]:
        step = np.float32(np.float32(self.theta) ** np.float32(-2.0 / head_dim))
        turned = np.multiply.accumulate(
            np.vstack([positions, np.full((head_dim // 2 - 1, len(positions)), step)]), axis=0
        )
        return (np.float32(1 / self.scale) * (turned / divisors[:, None])).T.astype(np.float64)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The numbers of a model. `window_rope` turns queries and keys of layers with a window, where it is another one.

    A softcap of c makes c · tanh(x / c) of x. `norm_offset` says that the model was trained with weights of norms that
    1 is added to; the file holds the sums.
    """

    graph: GraphConfig
    context: int
    norm_epsilon: float
    rope: Rope
    window_rope: Rope | None = None
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    """What products of queries and keys are multiplied by; None for 1/√(head size)."""
    attn_softcap: float = 0.0
    logit_softcap: float = 0.0
    norm_offset: bool = False

    def rope_of(self, layer: int | None) -> Rope:
        """The rotation of queries and keys in `layer`, where it has one."""
        return self.window_rope if self.window_rope is not None and self.graph.window(layer) else self.rope

    @property
    def score_scale(self) -> float:
        return self.graph.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    def softcap(self, stage: Stage) -> float:
        """The softcap that `stage` applies, to scores or to logits."""
        return self.attn_softcap if stage.is_attention_map else self.logit_softcap
