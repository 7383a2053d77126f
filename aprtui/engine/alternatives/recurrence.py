"""Wrong ways of recurrent layers: the causal convolution, the gates, and the delta rule.

Shape suffixes as in `reference.recurrence`: T = positions, H = value heads, D = channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.alternatives.alternative import Alternative, plain
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.reference import ops
from aprtui.engine.reference.recurrence import by_value_head
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op

Wide = NDArray[np.float64]
Rule = Callable[[Wide, Wide, Wide, Wide, Wide], Wide]
"""From a state `[H, D, D]` (values × keys) and the key `[H, D]`, value `[H, D]`, decay `[H]` and learning rate `[H]` of
a position to the next state."""


# The convolution.


def taps_backwards(call: StageCall) -> Array:
    """The newest position meets the weight of the oldest."""
    return _convolved(call, call.x, backwards=True)


def own_token_unseen(call: StageCall) -> Array:
    """The positions before the own one, which comes a step late."""
    return _convolved(call, np.concatenate([np.zeros_like(call.x[:1]), call.x[:-1]]))


def oldest_tap_left_out(call: StageCall) -> Array:
    """The cache of the convolution keeps a position too few."""
    return _convolved(call, call.x, first_tap=1)


def _convolved(call: StageCall, x: Array, *, backwards: bool = False, first_tap: int = 0) -> Array:
    (weight,) = call.model.params(call.node)
    kernel = weight.dequantize().astype(np.float64).T
    taps = kernel[::-1] if backwards else kernel
    padded = np.concatenate([np.zeros((len(taps) - 1, x.shape[1])), x.astype(np.float64)])
    parts = [padded[tap : tap + len(x)] * taps[tap] for tap in range(first_tap, len(taps))]
    return np.asarray(np.sum(parts, axis=0), np.float32)


# Gates.


def not_normalised(call: StageCall) -> Array:
    """Queries or keys as the convolution leaves them."""
    return call.x


def normalised_over_all_heads(call: StageCall) -> Array:
    """One sum of squares for all heads together."""
    x = call.x.astype(np.float64)
    return np.asarray(x / np.sqrt((x * x).sum(-1, keepdims=True) + call.model.config.norm_epsilon), np.float32)


def without_bias(call: StageCall) -> Array:
    """log(1 + exp(x)): the bias of the step size is not added."""
    return np.logaddexp(0.0, call.x.astype(np.float64)).astype(np.float32)


def softplus_left_out(call: StageCall) -> Array:
    (bias,) = call.model.params(call.node)
    return np.asarray(call.x + bias.dequantize().reshape(-1), np.float32)


def grows(call: StageCall) -> Array:
    """The factors of the decay have the other sign."""
    return -call.honest()


def no_decay(call: StageCall) -> Array:
    return np.zeros_like(call.honest())


def gate_of_the_query(call: StageCall) -> Array:
    """The first half of each head, which is the query, is taken for the gate."""
    size = call.model.graph[call.node.stage].head_size
    heads = call.x.reshape(len(call.x), -1, 2, size)
    return call.honest(np.ascontiguousarray(heads[:, :, ::-1]).reshape(call.x.shape))


def other_half_of_heads(call: StageCall) -> Array:
    """Beta is taken for alpha, or alpha for beta."""
    stage = call.model.graph[call.node.stage]
    other = ops.head_back if call.op is Op.HEAD_FRONT else ops.head_front
    return other(call.x, stage.heads, stage.head_size)


def halves_of_the_row(call: StageCall) -> Array:
    """All betas in front of all alphas, in place of those of each key head."""
    front, back = np.split(call.x, 2, axis=1)
    return front if call.op is Op.HEAD_FRONT else back


# The delta rule.


def plain_sum(call: StageCall) -> Array:
    """Linear attention: what the state gives for the key already is not taken off the value."""
    return _by_rule(call, lambda state, k, v, decay, rate: _kept(state, decay) + _outer(v * rate[:, None], k))


def decay_afterwards(call: StageCall) -> Array:
    """The state decays behind its update."""
    return _by_rule(call, lambda state, k, v, decay, rate: _kept(_updated(state, k, v, rate), decay))


def full_rate(call: StageCall) -> Array:
    """The learning rate is left out."""
    return _by_rule(call, lambda state, k, v, decay, rate: _updated(_kept(state, decay), k, v, np.ones_like(rate)))


def forgotten(call: StageCall) -> Array:
    """Each position begins with an empty state."""
    return _by_rule(call, lambda state, k, v, decay, rate: _updated(np.zeros_like(state), k, v, rate))


def keys_of_other_heads(call: StageCall) -> Array:
    """Value heads read key heads as if the file counted them in the other order."""
    return _by_rule(call, _delta, other_order=True)


def state_before_update(call: StageCall) -> Array:
    """The query meets the state of the position before."""
    states = _states(call, _delta)
    return _output(call, np.concatenate([np.zeros_like(states[:1]), states[:-1]]))


def state_transposed(call: StageCall) -> Array:
    """Keys and values of the state are exchanged where the query meets it."""
    return _output(call, np.swapaxes(_states(call, _delta), 2, 3))


def query_not_scaled(call: StageCall) -> Array:
    return call.honest() * np.float32(np.sqrt(call.model.config.graph.linear_head_dim))


def _by_rule(call: StageCall, rule: Rule, *, other_order: bool = False) -> Array:
    """The state, or what it gives for its query, by another rule."""
    states = _states(call, rule, other_order=other_order)
    if call.op is Op.DELTA_STATE:
        return np.asarray(states[-len(call.honest()) :].reshape(-1, states[0].size), np.float32)
    return _output(call, states, other_order=other_order)


def _states(call: StageCall, rule: Rule, *, other_order: bool = False) -> Wide:
    """The state `[T, H, D, D]` after each position."""
    keys, values, decays, rates = call.inputs if call.op is Op.DELTA_STATE else call.inputs[2:]
    k = _heads(call, keys, other_order=other_order)
    v = values.reshape(len(values), k.shape[1], -1).astype(np.float64)
    state, states = np.zeros((*k.shape[1:], k.shape[2])), []
    for at in range(len(k)):
        state = rule(state, k[at], v[at], np.exp(decays[at].astype(np.float64)), rates[at].astype(np.float64))
        states.append(state)
    return np.stack(states)


def _output(call: StageCall, states: Wide, *, other_order: bool = False) -> Array:
    q = _heads(call, call.inputs[1], other_order=other_order) / np.sqrt(call.model.config.graph.linear_head_dim)
    found = np.einsum("thvk,thk->thv", states[-len(q) :], q)
    return np.asarray(found.reshape(len(q), -1), np.float32)


def _heads(call: StageCall, x: Array, *, other_order: bool) -> Wide:
    """Queries or keys `[T, H, D]`, those of a key head for each of its value heads."""
    graph = call.model.config.graph
    return by_value_head(x, replace(graph, grouped_value_heads=graph.grouped_value_heads != other_order))


def _delta(state: Wide, k: Wide, v: Wide, decay: Wide, rate: Wide) -> Wide:
    return _updated(_kept(state, decay), k, v, rate)


def _kept(state: Wide, decay: Wide) -> Wide:
    return state * decay[:, None, None]


def _updated(state: Wide, k: Wide, v: Wide, rate: Wide) -> Wide:
    held = np.einsum("hvk,hk->hv", state, k)
    return state + _outer((v - held) * rate[:, None], k)


def _outer(v: Wide, k: Wide) -> Wide:
    return v[:, :, None] * k[:, None, :]


def _several_key_heads(model: Model) -> bool:
    return 1 < model.config.graph.linear_key_heads < model.config.graph.linear_value_heads


_STATE = (Op.DELTA_STATE, Op.DELTA_OUTPUT)
_HALVES = (Op.HEAD_FRONT, Op.HEAD_BACK)
_RULE = "S = decay · S, then S + rate · (v − S k) kᵀ, then S q"

RECURRENCE_ALTERNATIVES: tuple[Alternative, ...] = (
    plain(
        "taps backwards", (Op.CONVOLUTION,), taps_backwards, "the newest position meets the weight of the oldest",
        "the last tap is that of the token itself",
    ),
    plain(
        "convolution a step late", (Op.CONVOLUTION,), own_token_unseen, "the convolution does not see its own token",
        "write the token to the cache before it is read",
    ),
    plain(
        "oldest tap left out", (Op.CONVOLUTION,), oldest_tap_left_out, "the oldest tap of the convolution is left out",
        "keep as many positions as the kernel has taps, less one",
    ),
    plain(
        "heads not normalised", (Op.HEAD_L2_NORM,), not_normalised, "queries or keys are not normalised",
        "divide each head by its length",
    ),
    plain(
        "heads normalised together", (Op.HEAD_L2_NORM,), normalised_over_all_heads,
        "all heads are divided by one length", "divide each head by its own length",
    ),
    plain(
        "bias of the step left out", (Op.SOFTPLUS,), without_bias, "the bias of the step size is left out",
        "add it before the softplus",
    ),
    plain(
        "softplus left out", (Op.SOFTPLUS,), softplus_left_out, "the softplus is left out", "log(1 + exp(x + bias))"
    ),
    plain("sign of the decay", (Op.DECAY,), grows, "the factors of the decay have the other sign", "−exp(A) · step"),
    plain("no decay", (Op.DECAY,), no_decay, "the state does not decay", "−exp(A) · step"),
    plain(
        "gate of the query", (Op.HEAD_GATE,), gate_of_the_query, "the half of each head that is the query is the gate",
        "the gate stands behind the query of each head",
    ),
    plain(
        "other half of heads", _HALVES, other_half_of_heads, "beta and alpha are exchanged",
        "for each key head, the betas of its value heads, then their alphas",
        lambda model, node: model.config.graph.linear_key_heads > 0,
    ),
    plain(
        "halves of the row", _HALVES, halves_of_the_row, "all betas are read before all alphas",
        "for each key head, the betas of its value heads, then their alphas",
        lambda model, node: model.config.graph.linear_key_heads > 1,
    ),
    plain(
        "plain sum", _STATE, plain_sum, "what the state gives for the key is not taken off the value: linear attention",
        _RULE,
    ),
    plain("decay behind the update", _STATE, decay_afterwards, "the state decays behind its update", _RULE),
    plain("no learning rate", _STATE, full_rate, "the learning rate is left out", _RULE),
    plain("state forgotten", _STATE, forgotten, "each position begins with an empty state", "keep the state"),
    plain(
        "key heads by group", _STATE, keys_of_other_heads, "value head h reads key head h div n, in place of h mod n",
        "a GGUF file has value heads counted across the key heads",
        lambda model, node: _several_key_heads(model) and not model.config.graph.grouped_value_heads,
    ),
    plain(
        "key heads across", _STATE, keys_of_other_heads, "value head h reads key head h mod n, in place of h div n",
        "files of this architecture have value heads counted key head by key head",
        lambda model, node: _several_key_heads(model) and model.config.graph.grouped_value_heads,
    ),
    plain(
        "state before its update", (Op.DELTA_OUTPUT,), state_before_update,
        "the query meets the state of the position before", _RULE,
    ),
    plain(
        "state transposed", (Op.DELTA_OUTPUT,), state_transposed, "keys and values of the state are exchanged", _RULE
    ),
)  # fmt: skip
