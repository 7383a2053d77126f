"""All alternatives, those first that say most where several compute the same. A new one is a row of its subject."""

from __future__ import annotations

from aprtui.engine.alternatives.activations import ACTIVATION_ALTERNATIVES
from aprtui.engine.alternatives.alternative import Alternative
from aprtui.engine.alternatives.embedding import EMBEDDING_ALTERNATIVES
from aprtui.engine.alternatives.experts import EXPERT_ALTERNATIVES
from aprtui.engine.alternatives.keys import KEY_ALTERNATIVES
from aprtui.engine.alternatives.latent import LATENT_ALTERNATIVES
from aprtui.engine.alternatives.maps import ATTENTION_ALTERNATIVES
from aprtui.engine.alternatives.matrices.decoding import DECODING_ALTERNATIVES
from aprtui.engine.alternatives.matrices.inputs import INPUT_ALTERNATIVES
from aprtui.engine.alternatives.matrices.other_layers import OTHER_LAYER_ALTERNATIVES
from aprtui.engine.alternatives.matrices.other_weights import OTHER_WEIGHT_ALTERNATIVES
from aprtui.engine.alternatives.matrices.product_types import INPUT_TYPE_ALTERNATIVES
from aprtui.engine.alternatives.matrices.weights import WEIGHT_ALTERNATIVES
from aprtui.engine.alternatives.norms import BIAS_ALTERNATIVES, NORM_ALTERNATIVES, NORM_DETAILS
from aprtui.engine.alternatives.parts import PART_ALTERNATIVES, VECTOR_ALTERNATIVES
from aprtui.engine.alternatives.recurrence import RECURRENCE_ALTERNATIVES
from aprtui.engine.alternatives.results import RESIDUAL_ALTERNATIVES, RESULT_ALTERNATIVES
from aprtui.engine.alternatives.rope import ROPE_ALTERNATIVES
from aprtui.engine.alternatives.wires import WIRE_ALTERNATIVES
from aprtui.engine.alternatives.written import WRITTEN_ALTERNATIVES

ALTERNATIVES: tuple[Alternative, ...] = (
    *ROPE_ALTERNATIVES,
    *NORM_ALTERNATIVES,
    *BIAS_ALTERNATIVES,
    *ATTENTION_ALTERNATIVES,
    *KEY_ALTERNATIVES,
    *ACTIVATION_ALTERNATIVES,
    *EXPERT_ALTERNATIVES,
    *RECURRENCE_ALTERNATIVES,
    *LATENT_ALTERNATIVES,
    *EMBEDDING_ALTERNATIVES,
    *RESIDUAL_ALTERNATIVES,
    *RESULT_ALTERNATIVES,
    *WIRE_ALTERNATIVES,
    *PART_ALTERNATIVES,
    *OTHER_WEIGHT_ALTERNATIVES,
    *OTHER_LAYER_ALTERNATIVES,
    *INPUT_ALTERNATIVES,
    *DECODING_ALTERNATIVES,
    *INPUT_TYPE_ALTERNATIVES,
    *WEIGHT_ALTERNATIVES,
    *WRITTEN_ALTERNATIVES,
    *NORM_DETAILS,
    *VECTOR_ALTERNATIVES,
)

ALONE: tuple[Alternative, ...] = (
    *KEY_ALTERNATIVES,
    *WIRE_ALTERNATIVES,
    *WEIGHT_ALTERNATIVES,
    *WRITTEN_ALTERNATIVES,
    *NORM_DETAILS,
    *VECTOR_ALTERNATIVES,
)
"""Those that are not tried with another one: they look through all rows, or hold most others as a case."""
