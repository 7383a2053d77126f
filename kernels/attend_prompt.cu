// Causal attention of the tokens of a prompt over caches in float32, tile by tile; of each query over its window, where there is
// one. Caches in half: attend_prompt_half.cu, on tensor cores, which do not take float32.
//
//   attend_prompt(Attention a, const Step* step)
//   attend_prompt_capped, of models with a softcap
//
// Shapes: see Attention; a.q8 is not written (use `quantize`). A block of 128 threads takes a head and 16 queries, four a warp,
// and walks over the keys 32 at a time with a running maximum; a lane has one key, then four channels.
// Launch: grid (ceil(tokens / 16), heads); dynamic shared memory 64 * head_dim + 18944 bytes, at most 35 KB: wider heads take 128
// channels at a time. Must move: for each 16 queries the keys and values up to the last of them (mostly from L2), 4 bytes a value
// of q and out; taps 4 bytes a map entry, three times.
#include "attention.cuh"

constexpr int QUERIES = 16, KEYS = 32, OF_WARP = 4, SLICE = 128, SLICES = 2, THREADS = 128;
constexpr int WORDS = SLICE / 4, PITCH = WORDS + 1;  // of 16 bytes; the last one keeps rows in different banks

INLINE float4 word_of(Shared<float> array, int word) { return *reinterpret_cast<const float4*>(&array[4 * word]); }

// Up to 128 channels of 32 rows of a cache, from `start`; zeros from row `end` and from channel `width` on.
INLINE void load_tile(const float* rows, int dim, int start, int end, int width, Shared<float> tile) {
#pragma unroll 4
  for (int i = 0; i < KEYS * WORDS / THREADS; ++i) {
    const int at = threadIdx.x + i * THREADS, key = at / WORDS, word = at % WORDS;
    float4 loaded = make_float4(0, 0, 0, 0);
    if (start + key < end && 4 * word < width) loaded = load_four(rows + static_cast<size_t>(start + key) * dim + 4 * word);
    *reinterpret_cast<float4*>(&tile[4 * (key * PITCH + word)]) = loaded;
  }
}

INLINE float dot(float4 a, float4 b, float sum) { return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum)))); }

// scores[r] += products of the warp's queries with the lane's key, over `width` channels.
INLINE void multiply_key(Shared<float> tile, Shared<float> queries, int dim, int width, float (&scores)[OF_WARP]) {
  // In runs of 32 channels: one sum over 256 would double the error of the scores.
  for (int run = 0; 4 * run < width; run += WARP / 4) {
    float partial[OF_WARP] = {};
#pragma unroll
    for (int word = run; word < run + WARP / 4; ++word) {
      if (4 * word >= width) break;
      const float4 key = word_of(tile, lane_index() * PITCH + word);
#pragma unroll
      for (int r = 0; r < OF_WARP; ++r) partial[r] = dot(word_of(queries, r * (dim / 4) + word), key, partial[r]);
    }
#pragma unroll
    for (int r = 0; r < OF_WARP; ++r) scores[r] += partial[r];
  }
}

// sums[r] += powers of the warp's queries times the lane's channels. Keys that a query does not see are skipped, not multiplied
// by 0: a NaN or Inf there would reach earlier tokens.
INLINE void add_values(Shared<float> tile, Shared<float> powers, int position, int start, int reach, float4 (&sums)[OF_WARP]) {
#pragma unroll 8
  for (int i = 0; i < KEYS; ++i) {
    const float4 value = word_of(tile, i * PITCH + lane_index());
#pragma unroll
    for (int r = 0; r < OF_WARP; ++r) {
      if (!sees(position + r, start + i, reach)) continue;
      const float p = powers[r * KEYS + i];
      sums[r].x = fmaf(p, value.x, sums[r].x), sums[r].y = fmaf(p, value.y, sums[r].y);
      sums[r].z = fmaf(p, value.z, sums[r].z), sums[r].w = fmaf(p, value.w, sums[r].w);
    }
  }
}

INLINE float4 scaled(float4 v, float factor) { return make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor); }

template <bool CAPPED>
INLINE void attend(const Attention& a, const Step* step, Shared<float> memory) {
  wait_for_earlier_launches();
  const int dim = a.head_dim, head = blockIdx.y, lane = lane_index(), reach = reach_of(a), own = warp_index() * OF_WARP;
  const int tokens = step->tokens, first = blockIdx.x * QUERIES, position = step->position + first + own;  // of the warp
  const int end = min(step->position + tokens, step->position + first + QUERIES);
  const int oldest = a.scores ? 0 : max(0, step->position + first - reach + 1) / KEYS * KEYS;  // scores are wanted of all keys
  const size_t cache = static_cast<size_t>(head / (a.heads / a.kv_heads)) * a.context * dim;
  const float *const keys = static_cast<const float*>(a.key_cache) + cache, *const values = static_cast<const float*>(a.value_cache) + cache;
  const Shared<float> tile = memory, queries = part_of(memory, 4 * KEYS * PITCH), powers = part_of(queries, QUERIES * dim + own * KEYS);
  for (int r = 0; r < OF_WARP; ++r) {
    const int token = first + own + r;
    const float* const query = a.q + (static_cast<size_t>(token) * a.heads + head) * dim;
    for (int i = lane; i < dim; i += WARP) queries[(own + r) * dim + i] = token < tokens ? query[i] : 0.0f;
  }
  float4 sums[SLICES][OF_WARP] = {};
  float largest[OF_WARP], total_power[OF_WARP];
#pragma unroll
  for (int r = 0; r < OF_WARP; ++r) largest[r] = -INFINITY, total_power[r] = 0.0f;
  for (int start = oldest; start < end; start += KEYS) {
    float scores[OF_WARP] = {};
    for (int channel = 0; channel < dim; channel += SLICE) {
      load_tile(keys + channel, dim, start, end, dim - channel, tile);
      __syncthreads();
      multiply_key(tile, part_of(queries, own * dim + channel), dim, min(SLICE, dim - channel), scores);
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < OF_WARP; ++r) {
      const int token = first + own + r, key = start + lane;
      float score = scores[r] * a.scale;
      if (a.scores && token < tokens && key <= position + r)
        a.scores[(static_cast<size_t>(head) * tokens + token) * a.map_stride + key] = score;
      if (CAPPED) score = softcapped(score, a.softcap);
      if (!sees(position + r, key, reach)) score = -INFINITY;
      const float now = fmaxf(largest[r], warp_max(score)), factor = power(largest[r], now), raised = power(score, now);
      total_power[r] = total_power[r] * factor + warp_sum(raised);
      largest[r] = now;
      powers[r * KEYS + lane] = raised;
#pragma unroll
      for (int slice = 0; slice < SLICES; ++slice) sums[slice][r] = scaled(sums[slice][r], factor);
    }
#pragma unroll
    for (int slice = 0; slice < SLICES; ++slice) {
      if (slice * SLICE >= dim) break;
      load_tile(values + slice * SLICE, dim, start, end, dim - slice * SLICE, tile);
      __syncthreads();
      add_values(tile, powers, position, start, reach, sums[slice]);
      __syncthreads();
    }
  }
#pragma unroll
  for (int r = 0; r < OF_WARP; ++r) {
    const int token = first + own + r;
    if (token >= tokens) break;
    float factor = 1.0f;
    if (a.sinks) {
      const float before = largest[r];
      largest[r] = fmaxf(before, a.sinks[head]);
      factor = power(before, largest[r]);
      total_power[r] = total_power[r] * factor + power(a.sinks[head], largest[r]);
    }
    const float inverse = 1.0f / total_power[r];
    float* const out = a.out + (static_cast<size_t>(token) * a.heads + head) * dim;
#pragma unroll
    for (int slice = 0; slice < SLICES; ++slice) {
      const int channel = slice * SLICE + 4 * lane;
      if (channel < dim) *reinterpret_cast<float4*>(out + channel) = scaled(sums[slice][r], factor * inverse);
    }
    if (a.scores) finish_map(a, *step, token, largest[r], inverse);
  }
}

KERNEL __launch_bounds__(128, 4) attend_prompt(Attention a, const Step* step) {
  DYNAMIC_SHARED(float, memory);
  attend<false>(a, step, memory);
}

KERNEL __launch_bounds__(128, 4) attend_prompt_capped(Attention a, const Step* step) {
  DYNAMIC_SHARED(float, memory);
  attend<true>(a, step, memory);
}
