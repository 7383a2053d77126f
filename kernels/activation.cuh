// What the gate of a feed-forward block goes through on its way to meet `up`.
#pragma once

#include "quantize.cuh"

constexpr int SILU = 0, GELU_TANH = 1, SWIGLU_OAI = 2;

// Unused stages are null. All are [tokens, ffn].
struct FeedForward {
  float *gate, *up, *active;  // ffn_gate, ffn_up, ffn_silu or ffn_gelu: taps; of SWIGLU_OAI, active is no stage
  float* out;                 // their product: for `exact`, and a tap in q8
  Q8Output q8;
  int activation;
};
static_assert(sizeof(FeedForward) == 56, "the host packs this");

INLINE float sigmoid_times(float x, float steepness) { return x / (1.0f + expf(-steepness * x)); }

// x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), which is x * sigmoid(2 sqrt(2/pi) * (x + 0.044715 x^3)).
INLINE float gelu_tanh(float x) { return sigmoid_times(x, 1.5957691216057308f * fmaf(0.044715f * x, x, 1.0f)); }

// Of gpt-oss: gate and up are clamped, and 1 is added to up. A NaN stays one.
INLINE float swiglu_oai(float gate, float up) {
  constexpr float LIMIT = 7.0f;
  const float x = gate > LIMIT ? LIMIT : gate, y = up > LIMIT ? LIMIT : up < -LIMIT ? -LIMIT : up;
  return (y + 1.0f) * sigmoid_times(x, 1.702f);
}

// What value `at` of gate and up becomes, stored in the taps in use, and returned.
INLINE float activated(const FeedForward& f, size_t at, float gate, float up) {
  float value;
  if (f.activation == SWIGLU_OAI) {
    value = swiglu_oai(gate, up);
  } else {
    const float active = f.activation == SILU ? sigmoid_times(gate, 1.0f) : gelu_tanh(gate);
    value = active * up;
    if (f.active) f.active[at] = active;
  }
  if (f.gate) f.gate[at] = gate;
  if (f.up) f.up[at] = up;
  if (f.out) f.out[at] = value;
  return value;
}
