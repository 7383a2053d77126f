// The activation of the feed-forward block.
#pragma once

#include "quantize.cuh"

// Unused stages are null. All are [tokens, ffn].
struct FeedForward {
  float *gate, *up, *silu;  // ffn_gate, ffn_up, ffn_silu: taps
  float* out;               // ffn_swigl: for `exact`, and a tap in q8
  Q8Output q8;
};
static_assert(sizeof(FeedForward) == 48, "the host packs this");

// silu(gate) * up of value `at`, stored in the taps in use, and returned.
INLINE float activated(const FeedForward& f, size_t at, float gate, float up) {
  const float silu = gate / (1.0f + expf(-gate));
  const float value = silu * up;
  if (f.gate) f.gate[at] = gate;
  if (f.up) f.up[at] = up;
  if (f.silu) f.silu[at] = silu;
  if (f.out) f.out[at] = value;
  return value;
}
