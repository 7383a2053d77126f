// The steps of a head of Q, K or V between its matrix product and attention: bias, norm of the head, RoPE, a factor of the
// position, K/V cache.
#pragma once

#include "types.cuh"

// Biases and norms that the model lacks are null, and so are unused taps. Widths: q = heads * head_dim,
// kv = kv_heads * head_dim, qkv = q + 2 kv. The cache is [kv_heads, context, head_dim], float32 or half.
struct Heads {
  const float *q_bias, *k_bias, *v_bias;  // [q], [kv], [kv]: all or none
  const float *q_norm, *k_norm;           // [head_dim]: both or none
  const float2* turns;                    // [context, rotated / 2]: cosine and sine of each pair's angle
  const float* factors;                   // [context]: what queries are multiplied by as they leave, or null
  void *key_cache, *value_cache;
  float* product;            // [tokens, qkv]: qkv_matmul
  float* biased;             // [tokens, qkv]: qkv_bias, a tap
  float *q_normed, *k_normed;  // [tokens, q], [tokens, kv]: q_norm, k_norm, taps
  float* q_turned;           // [tokens, q]: q_post_rope; with factors a tap
  float* k_turned;           // [tokens, kv]: k_post_rope, a tap
  float* q_scaled;           // [tokens, q]: q_temp_scaled, with factors
  float epsilon;
  int heads, kv_heads, head_dim, context;
  int rotated;      // channels that RoPE turns, the first ones of a head; 0 for none
  int interleaved;  // RoPE rotates 2i with 2i + 1; otherwise i with i + rotated / 2
  int half_cache;
};
static_assert(sizeof(Heads) == 160, "the host packs this");

constexpr int MAX_HEAD_DIM = 256;

INLINE void store_cache(void* cache, int half_cache, size_t at, float value) {
  if (half_cache)
    static_cast<half*>(cache)[at] = __float2half_rn(value);
  else
    static_cast<float*>(cache)[at] = value;
}

// Head `head` (Q heads first, then K, then V) of token `token` of the pass, by a block of 128 threads; `values` holds
// MAX_HEAD_DIM floats of shared memory, `scratch` 4. The products of the head must be visible to the block.
INLINE void finish_head(const Heads& h, int head, int token, int position, Shared<float> values, Shared<float> scratch) {
  const int dim = h.head_dim, q_width = h.heads * dim, kv_width = h.kv_heads * dim, width = q_width + 2 * kv_width;
  const bool is_q = head < h.heads, is_k = !is_q && head < h.heads + h.kv_heads;
  const int own = is_q ? head : is_k ? head - h.heads : head - h.heads - h.kv_heads;  // among its kind
  const size_t fused = static_cast<size_t>(token) * width + static_cast<size_t>(head) * dim;
  const float* bias = is_q ? h.q_bias : is_k ? h.k_bias : h.v_bias;
  for (int i = threadIdx.x; i < dim; i += 128) {
    // Through L2: another block may have written it in this launch.
    const float value = load_through_l2(h.product + fused + i) + (bias ? bias[own * dim + i] : 0.0f);
    values[i] = value;
    if (h.biased) h.biased[fused + i] = value;
  }
  __syncthreads();
  const size_t cached = (static_cast<size_t>(own) * h.context + position) * dim;
  if (!is_q && !is_k) {
    for (int i = threadIdx.x; i < dim; i += 128) store_cache(h.value_cache, h.half_cache, cached + i, values[i]);
    return;
  }
  const size_t at = static_cast<size_t>(token) * (is_q ? q_width : kv_width) + static_cast<size_t>(own) * dim;
  const float* norm = is_q ? h.q_norm : h.k_norm;
  if (norm) {
    float* const normed = is_q ? h.q_normed : h.k_normed;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < dim; i += 128) squares = fmaf(values[i], values[i], squares);
    const float scale = 1.0f / sqrtf(block_sum<4>(squares, scratch) / static_cast<float>(dim) + h.epsilon);
    for (int i = threadIdx.x; i < dim; i += 128) {
      const float value = values[i] * scale * norm[i];
      values[i] = value;
      if (normed) normed[at + i] = value;
    }
    __syncthreads();
  }
  float* const turned = is_q ? h.q_turned : h.k_turned;
  float* const scaled = is_q && h.factors ? h.q_scaled : nullptr;
  const float factor = scaled ? h.factors[position] : 1.0f;
  const auto store = [&](int i, float value) {
    if (turned) turned[at + i] = value;
    if (scaled) scaled[at + i] = value * factor;
    if (is_k) store_cache(h.key_cache, h.half_cache, cached + i, value);
  };
  const int pairs = h.rotated / 2;
  for (int pair = threadIdx.x; pair < pairs; pair += 128) {
    const int i = h.interleaved ? 2 * pair : pair, j = h.interleaved ? i + 1 : pair + pairs;
    const float2 turn = h.turns[static_cast<size_t>(position) * pairs + pair];
    const float first = values[i], second = values[j];
    store(i, first * turn.x - second * turn.y);
    store(j, first * turn.y + second * turn.x);
  }
  for (int i = h.rotated + threadIdx.x; i < dim; i += 128) store(i, values[i]);
}
