// Arguments of the attention kernels. Maps are [heads, tokens, map_stride]; of each row the first
// step->position + step->tokens entries are written, zero where key > query. Scores, and what softcaps make of them, know no
// window: exponentials in front of it are zero.
#pragma once

#include "quantize.cuh"

struct Attention {
  const float* q;                             // [tokens, heads * head_dim], rotated
  const void *key_cache, *value_cache;        // [kv_heads, context, head_dim], float32 or half
  float *scores, *capped, *softmax;           // taps, or null; capped and softmax, of a prompt, need scores too
  float* out;                                 // [tokens, heads * head_dim]
  Q8Output q8;                                // of out, or null
  const float* sinks;                         // [heads]: logits that join the sums of exponentials, or null
  int heads, kv_heads, head_dim, context;     // head_dim a multiple of 8, at most 256
  int map_stride, half_cache;
  int window;            // positions that a query sees, its own included; 0 for all before it
  float scale, softcap;  // what products of queries and keys are multiplied by; softcap of that, 0 for none
};
static_assert(sizeof(Attention) == 120, "the host packs this");

INLINE float4 load_four(const float* at) { return *reinterpret_cast<const float4*>(at); }
INLINE float4 load_four(const half* at) {
  const int2 words = *reinterpret_cast<const int2*>(at);
  const unsigned a = words.x, b = words.y;
  return make_float4(__half2float(__ushort_as_half(a & 0xFFFFu)), __half2float(__ushort_as_half(a >> 16)),
                     __half2float(__ushort_as_half(b & 0xFFFFu)), __half2float(__ushort_as_half(b >> 16)));
}
INLINE float load_one(const float* at) { return *at; }
INLINE float load_one(const half* at) { return __half2float(*at); }

// cap * tanh(value / cap): between -cap and cap.
INLINE float softcapped(float value, float cap) { return cap * tanhf(value / cap); }

// exp(value - largest); 0 while all values so far are -Inf.
INLINE float power(float value, float largest) { return expf(value - (largest == -INFINITY ? 0.0f : largest)); }

// A query sees the keys at its position and before it, as many as this.
INLINE int reach_of(const Attention& a) { return a.window ? a.window : 0x7FFFFFFF; }
INLINE bool sees(int position, int key, int reach) { return static_cast<unsigned>(position - key) < static_cast<unsigned>(reach); }

// The maps of a token of a prompt, made by a warp of the scores that its lanes have stored.
INLINE void finish_map(const Attention& a, const Step& step, int token, float largest, float inverse_sum) {
  const int position = step.position + token, reach = reach_of(a);
  const size_t row = (static_cast<size_t>(blockIdx.y) * step.tokens + token) * a.map_stride;
  __syncwarp();
  for (int key = lane_index(); key < step.position + step.tokens; key += WARP) {
    const size_t at = row + key;
    if (key > position) a.scores[at] = 0.0f;
    float score = a.scores[at];
    if (a.softcap > 0.0f) score = softcapped(score, a.softcap);
    if (a.capped) a.capped[at] = score;
    if (a.softmax) a.softmax[at] = sees(position, key, reach) ? power(score, largest) * inverse_sum : 0.0f;
  }
}
