// Causal attention of the tokens of a prompt, tile by tile, in float32; of each query over its window, where there is one.
//
//   attend_prompt(Attention a, const Step* step)
//   attend_prompt_capped, of models with a softcap
//
// Shapes: see Attention; a.q8 is not written (use `quantize`). A block of 128 threads takes a head and 16 queries, four a warp,
// and walks over the keys 32 at a time with a running maximum; a lane has one key, then channels.
// Launch: grid (ceil(tokens / 16), heads); dynamic shared memory 4 * (16 * head_dim + 32 * min(head_dim, 128) + 544) bytes, at
// most 35 KB: wider heads take 128 channels at a time. Must move: for each 16 queries the keys and values up to the last of
// them (mostly from L2), 4 bytes a value of q and out; taps 4 bytes a map entry, three times.
#include "attention.cuh"

constexpr int QUERIES = 16, KEYS = 32, OF_WARP = 4, SLICE = 128, SLICES = 2, PARTS = SLICE / WARP;

// Some channels of 32 rows of a cache; rows are a slice and 1 apart, so that no two lanes use the same bank.
struct KeyTile {
  Shared<float> values;
  int pitch;
};

// Loads rows from `start`, with zeros from `end` on, and channels from SLICE * slice. Returns the number of channels.
template <class T>
INLINE int load_tile(const void* cache, const Attention& a, int kv_head, int start, int end, int slice, const KeyTile& tile) {
  const T* rows = static_cast<const T*>(cache) + (static_cast<size_t>(kv_head) * a.context + start) * a.head_dim + SLICE * slice;
  const int width = min(SLICE, a.head_dim - SLICE * slice);
  for (int i = threadIdx.x; i < KEYS * width; i += 128) {
    const int key = i / width, channel = i % width;
    tile.values[key * tile.pitch + channel] = start + key < end ? load_one(rows + key * a.head_dim + channel) : 0.0f;
  }
  return width;
}

template <class T, bool CAPPED>
INLINE void attend(const Attention& a, const Step* step, Shared<float> memory) {
  const int dim = a.head_dim, head = blockIdx.y, kv_head = head / (a.heads / a.kv_heads), lane = lane_index();
  const int first = blockIdx.x * QUERIES, tokens = step->tokens, total = step->position + tokens;
  const int end = min(total, step->position + first + QUERIES), width = a.heads * dim, own = warp_index() * OF_WARP;
  // Position of a query less that of a key that it sees is below this; scores are wanted of all keys.
  const unsigned reach = a.window ? a.window : 1u << 31;
  const int oldest = a.window && !a.scores ? max(0, step->position + first + 1 - a.window) / KEYS * KEYS : 0;
  const int pitch = min(dim, SLICE) + 1;
  const Shared<float> queries = memory, powers = part_of(memory, QUERIES * dim + KEYS * pitch);
  const KeyTile tile{part_of(memory, QUERIES * dim), pitch};
  for (int i = threadIdx.x; i < QUERIES * dim; i += 128) {
    const int token = first + i / dim;
    queries[i] = token < tokens ? a.q[static_cast<size_t>(token) * width + head * dim + i % dim] : 0.0f;
  }
  float sums[OF_WARP][SLICES * PARTS] = {}, largest[OF_WARP], total_power[OF_WARP];
#pragma unroll
  for (int r = 0; r < OF_WARP; ++r) largest[r] = -INFINITY, total_power[r] = 0.0f;
  for (int start = oldest; start < end; start += KEYS) {
    float scores[OF_WARP] = {};
    for (int slice = 0; slice * SLICE < dim; ++slice) {
      const int channels = load_tile<T>(a.key_cache, a, kv_head, start, end, slice, tile);
      __syncthreads();
      // In runs of 32 channels: one sum over 256 would double the error of the scores.
      for (int run = 0; run < channels; run += WARP) {
        float partial[OF_WARP] = {};
        for (int i = run; i < min(run + WARP, channels); ++i) {
          const float key = tile.values[lane * pitch + i];
#pragma unroll
          for (int r = 0; r < OF_WARP; ++r) partial[r] = fmaf(queries[(own + r) * dim + SLICE * slice + i], key, partial[r]);
        }
#pragma unroll
        for (int r = 0; r < OF_WARP; ++r) scores[r] += partial[r];
      }
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < OF_WARP; ++r) {
      const int token = first + own + r, key = start + lane, distance = step->position + token - key;
      float score = scores[r] * a.scale;
      if (a.scores && token < tokens && distance >= 0)
        a.scores[(static_cast<size_t>(head) * tokens + token) * a.map_stride + key] = score;
      if (CAPPED) score = softcapped(score, a.softcap);
      if (static_cast<unsigned>(distance) >= reach) score = -INFINITY;
      const float now = fmaxf(largest[r], warp_max(score)), factor = power(largest[r], now), raised = power(score, now);
      total_power[r] = total_power[r] * factor + warp_sum(raised);
      largest[r] = now;
      powers[(own + r) * KEYS + lane] = raised;
#pragma unroll
      for (int j = 0; j < SLICES * PARTS; ++j) sums[r][j] *= factor;
    }
#pragma unroll
    for (int slice = 0; slice < SLICES; ++slice) {
      if (slice * SLICE >= dim) break;
      const int channels = load_tile<T>(a.value_cache, a, kv_head, start, end, slice, tile);
      __syncthreads();
      for (int i = 0; i < KEYS; ++i)
#pragma unroll
        for (int j = 0; j < PARTS; ++j) {
          if (lane + j * WARP >= channels) break;
          const float value = tile.values[i * pitch + lane + j * WARP];
          // Keys that a query does not see are skipped, not multiplied by 0: a NaN or Inf there would reach earlier tokens.
#pragma unroll
          for (int r = 0; r < OF_WARP; ++r)
            if (static_cast<unsigned>(step->position + first + own + r - start - i) < reach)
              sums[r][slice * PARTS + j] = fmaf(powers[(own + r) * KEYS + i], value, sums[r][slice * PARTS + j]);
        }
      __syncthreads();
    }
  }
#pragma unroll
  for (int r = 0; r < OF_WARP; ++r) {
    const int token = first + own + r;
    if (token >= tokens) break;
    if (a.sinks) {
      const float before = largest[r];
      largest[r] = fmaxf(before, a.sinks[head]);
      const float factor = power(before, largest[r]);
      total_power[r] = total_power[r] * factor + power(a.sinks[head], largest[r]);
#pragma unroll
      for (int j = 0; j < SLICES * PARTS; ++j) sums[r][j] *= factor;
    }
#pragma unroll
    for (int j = 0; j < SLICES * PARTS; ++j)
      if (lane + j * WARP < dim) a.out[static_cast<size_t>(token) * width + head * dim + lane + j * WARP] = sums[r][j] / total_power[r];
    if (!a.scores) continue;
    for (int key = lane; key < total; key += WARP) {
      // A lane reads back only its own writes: it has the same keys as above.
      const size_t at = (static_cast<size_t>(head) * tokens + token) * a.map_stride + key;
      const int distance = step->position + token - key;
      if (distance < 0) a.scores[at] = 0.0f;
      const float score = CAPPED ? softcapped(a.scores[at], a.softcap) : a.scores[at];
      if (CAPPED && a.capped) a.capped[at] = score;
      if (a.softmax) a.softmax[at] = static_cast<unsigned>(distance) < reach ? power(score, largest[r]) / total_power[r] : 0.0f;
    }
  }
}

template <bool CAPPED>
INLINE void attend_from_cache(const Attention& a, const Step* step, Shared<float> memory) {
  wait_for_earlier_launches();
  if (a.half_cache)
    attend<half, CAPPED>(a, step, memory);
  else
    attend<float, CAPPED>(a, step, memory);
}

KERNEL __launch_bounds__(128, 4) attend_prompt(Attention a, const Step* step) {
  DYNAMIC_SHARED(float, memory);
  attend_from_cache<false>(a, step, memory);
}

KERNEL __launch_bounds__(128, 3) attend_prompt_capped(Attention a, const Step* step) {
  DYNAMIC_SHARED(float, memory);
  attend_from_cache<true>(a, step, memory);
}
