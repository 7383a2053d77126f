"""The numbers of a model that its stage graph does not need: context, norm epsilon, RoPE, scales, softcaps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage import Stage


class RopeAngles(StrEnum):
    """How the angles are computed. At position 600 the first two differ by 1e-5.

    `f32-recurrence` is ggml's way (`ggml_rope_cache_init`): the position times theta^(−2/d) once a pair, in float32.
    The last two are the same of the numbers that llama.cpp takes where a file says others (`Rope.as_read`).
    """

    F64 = "f64"
    F32_RECURRENCE = "f32-recurrence"
    LLAMA_CPP = "llama.cpp"
    LLAMA_CPP_RECURRENCE = "llama.cpp-f32-recurrence"

    @property
    def is_recurrence(self) -> bool:
        return self in (RopeAngles.F32_RECURRENCE, RopeAngles.LLAMA_CPP_RECURRENCE)

    @property
    def is_of_llama_cpp(self) -> bool:
        return self in (RopeAngles.LLAMA_CPP, RopeAngles.LLAMA_CPP_RECURRENCE)


@dataclass(frozen=True, slots=True)
class Yarn:
    """Which frequencies of RoPE are scaled (YaRN, Peng et al. 2023, arXiv:2309.00071).

    Channel pairs that turn `fast` times or more within `original_context` positions keep their frequency, those that
    turn `slow` times or less have it divided by the scale of the `Rope`, and those between go over from one to the
    other. With `whole_pairs`, the range between begins and ends at a whole number of pairs, one of which may lie
    outside of it.
    """

    original_context: int
    fast: float = 32.0
    slow: float = 1.0
    whole_pairs: bool = True

    def scaled_shares(self, theta: float, head_dim: int, *, whole_pairs: bool) -> NDArray[np.float64]:
        """How much of each pair's frequency is the scaled one, from 0 to 1, `[head_dim / 2]`."""
        first, last = (
            head_dim * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (self.fast, self.slow)
        )
        if whole_pairs:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head_dim - 1)
        return np.clip((np.arange(head_dim // 2) - first) / max(last - first, 0.001), 0, 1)


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864).

    `factors` are the per-frequency divisors of Llama 3 models (`rope_freqs.weight`), or None; `scale` divides the
    position (linear scaling; 1.0 for none), with `yarn` for some frequencies only. `magnitude` is what queries and keys
    are multiplied by as they are turned. `yarn_of_llama_cpp` is the YaRN that llama.cpp computes with, where that is
    not what the file says.
    """

    theta: float
    scale: float = 1.0
    factors: tuple[float, ...] | None = None
    yarn: Yarn | None = None
    magnitude: float = 1.0
    yarn_of_llama_cpp: Yarn | None = None

    def as_read(self, arithmetic: RopeAngles) -> Rope:
        """What an engine of that `arithmetic` takes the file to say."""
        if self.yarn_of_llama_cpp is None or not arithmetic.is_of_llama_cpp:
            return self
        return replace(self, yarn=self.yarn_of_llama_cpp, yarn_of_llama_cpp=None)

    def turns(
        self, first: int, count: int, head_dim: int, arithmetic: RopeAngles = RopeAngles.F64
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Cosines and sines of `angles`, times the magnitude, each `[count, head_dim / 2]`."""
        angles = self.angles(first, count, head_dim, arithmetic)
        return np.cos(angles) * self.magnitude, np.sin(angles) * self.magnitude

    def angles(
        self, first: int, count: int, head_dim: int, arithmetic: RopeAngles = RopeAngles.F64
    ) -> NDArray[np.float64]:
        """Radians of each channel pair at positions `first … first + count - 1`, shape `[count, head_dim / 2]`."""
        read = self.as_read(arithmetic)
        if read is not self:
            return read.angles(first, count, head_dim, arithmetic)
        divisors = np.ones(head_dim // 2) if self.factors is None else np.asarray(self.factors, np.float64)
        positions = np.arange(first, first + count)
        if arithmetic.is_recurrence:
            return self._recurrence(positions.astype(np.float32), divisors.astype(np.float32), head_dim)
        exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        frequencies = self.theta**-exponents / divisors
        scaled = frequencies / self.scale
        if self.yarn is not None:
            shares = self.yarn.scaled_shares(self.theta, head_dim, whole_pairs=self.yarn.whole_pairs)
            scaled = scaled * shares + frequencies * (1 - shares)
        return np.asarray(positions[:, None] * scaled, np.float64)

    def _recurrence(
        self, positions: NDArray[np.float32], divisors: NDArray[np.float32], head_dim: int
    ) -> NDArray[np.float64]:
        """As ggml computes them, whose YaRN knows whole pairs only."""
        step = np.float32(np.float32(self.theta) ** np.float32(-2.0 / head_dim))
        turned = np.multiply.accumulate(
            np.vstack([positions, np.full((head_dim // 2 - 1, len(positions)), step)]), axis=0
        )
        own = turned / divisors[:, None]
        scaled = np.float32(1 / self.scale) * own
        if self.yarn is not None:
            shares = self.yarn.scaled_shares(self.theta, head_dim, whole_pairs=True).astype(np.float32)
            kept = (1 - shares)[:, None]
            scaled = scaled * (1 - kept) + own * kept
        return np.asarray(scaled.T, np.float64)


@dataclass(frozen=True, slots=True)
class QueryTemperature:
    """What sharpens attention over long contexts: queries grow by 1 + scale · ln(1 + ⌊position / length⌋).

    Of Llama 4, and of Ministral 3 (`llama_4_scaling_beta`), after Scalable-Softmax (Nakanishi 2025, arXiv:2501.19399).
    """

    scale: float
    length: int

    def factors(self, first: int, count: int) -> NDArray[np.float32]:
        """What queries at positions `first … first + count - 1` are multiplied by, `[count]`."""
        steps = np.arange(first, first + count) // self.length
        return (1 + self.scale * np.log1p(steps)).astype(np.float32)


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
    query_temperature: QueryTemperature | None = None
    expert_weights_scale: float = 1.0
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
