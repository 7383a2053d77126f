// Attention of one token over all positions so far, keys split among blocks.
//
//   attend_one(Attention a, const Step* step, float* partial, unsigned* counters)
//
// Shapes: see Attention, tokens = 1; q8 only where heads / kv_heads * head_dim is a multiple of 32. partial
// [heads, splits, head_dim + 2]; counters [kv_heads * ceil(heads / kv_heads / 8)], 0 before and left at 0.
//
// A block of 128 threads takes a K/V head, up to eight of its query heads, and a run of keys, 64 at a time with a running
// maximum (Milakov & Gimelshein 2018, arXiv:1805.02867); the last block of a K/V head combines the runs. Runs are at least
// 64 keys long, so in a short context some blocks have no keys, and one graph serves all lengths.
// Launch: grid (splits, kv_heads, ceil(heads / kv_heads / 8)). Must move: keys and values of all positions once (for each
// eight heads), 4 bytes a value of q and out; taps 4 bytes a key and head, twice.
#include "attention.cuh"

constexpr int THREADS = 128, TILE = 64, AT_ONCE = 8, MAX_DIM = 256;

struct Run {
  int begin, end, total, length, first_head, heads;
};

template <class T>
INLINE void score_tile(const Attention& a, const Run& run, int start, Shared<float> queries, Shared<float> scores) {
  const T* keys = static_cast<const T*>(a.key_cache) + static_cast<size_t>(blockIdx.y) * a.context * a.head_dim;
  const int part = threadIdx.x % 8;  // eight lanes share a key
  const float scale = 1.0f / sqrtf(static_cast<float>(a.head_dim));
  for (int slot = threadIdx.x / 8; slot < TILE; slot += THREADS / 8) {
    const int key = start + slot;
    float sums[AT_ONCE] = {};
    if (key < run.end)
      for (int i = 4 * part; i < a.head_dim; i += 32) {
        const float4 k = load_four(keys + static_cast<size_t>(key) * a.head_dim + i);
#pragma unroll
        for (int g = 0; g < AT_ONCE; ++g) {
          if (g >= run.heads) break;
          const float4 q = load_four(static_cast<const float*>(queries) + g * MAX_DIM + i);
          sums[g] = fmaf(q.x, k.x, fmaf(q.y, k.y, fmaf(q.z, k.z, fmaf(q.w, k.w, sums[g]))));
        }
      }
#pragma unroll
    for (int g = 0; g < AT_ONCE; ++g) {
      if (g >= run.heads) break;
      float sum = sums[g];
      for (int distance = 4; distance > 0; distance /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, distance);
      if (part != g) continue;
      scores[g * TILE + slot] = key < run.end ? sum * scale : -INFINITY;
      if (a.scores && key < run.end) a.scores[static_cast<size_t>(run.first_head + g) * a.map_stride + key] = sum * scale;
    }
  }
}

// Turns scores into exponentials relative to the running maximum, and rescales the sums so far to it.
INLINE void raise_tile(const Run& run, Shared<float> scores, Shared<float> largest, Shared<float> sums, Shared<float> factors) {
  for (int g = warp_index(); g < run.heads; g += THREADS / WARP) {
    const float first = scores[g * TILE + lane_index()], second = scores[g * TILE + WARP + lane_index()];
    const float before = largest[g], now = fmaxf(before, warp_max(fmaxf(first, second)));
    const float a = power(first, now), b = power(second, now), sum = warp_sum(a + b);
    scores[g * TILE + lane_index()] = a;
    scores[g * TILE + WARP + lane_index()] = b;
    __syncwarp();
    if (lane_index() == 0) {
      factors[g] = power(before, now);
      sums[g] = sums[g] * factors[g] + sum;
      largest[g] = now;
    }
  }
}

template <class T>
INLINE void add_values(const Attention& a, const Run& run, int start, Shared<float> powers, Shared<float> factors,
                       float (&sums)[AT_ONCE][MAX_DIM / THREADS]) {
  const T* values = static_cast<const T*>(a.value_cache) + static_cast<size_t>(blockIdx.y) * a.context * a.head_dim;
  const int count = min(TILE, run.end - start);
#pragma unroll
  for (int j = 0; j < MAX_DIM / THREADS; ++j) {
    const int channel = threadIdx.x + j * THREADS;
    if (channel >= a.head_dim) break;
#pragma unroll
    for (int g = 0; g < AT_ONCE; ++g)
      if (g < run.heads) sums[g][j] *= factors[g];
    // Four keys at a time: one load reads their exponentials, and the loads of their values overlap.
    for (int i = 0; i < count; i += 4) {
      float value[4];
#pragma unroll
      for (int k = 0; k < 4; ++k)
        value[k] = i + k < count ? load_one(values + static_cast<size_t>(start + i + k) * a.head_dim + channel) : 0.0f;
#pragma unroll
      for (int g = 0; g < AT_ONCE; ++g) {
        if (g >= run.heads) break;
        const float4 p = load_four(static_cast<const float*>(powers) + g * TILE + i);
        sums[g][j] = fmaf(p.w, value[3], fmaf(p.z, value[2], fmaf(p.y, value[1], fmaf(p.x, value[0], sums[g][j]))));
      }
    }
  }
}

INLINE void join_runs(const Attention& a, const Run& run, const float* partial, Shared<float> weights) {
  const int splits = gridDim.x, used = (run.total + run.length - 1) / run.length, width = a.head_dim + 2;
  for (int g = 0; g < run.heads; ++g) {
    const int head = run.first_head + g;
    const float* runs = partial + static_cast<size_t>(head) * splits * width;
    float largest = -INFINITY, sum = 0.0f;
    for (int s = 0; s < used; ++s) largest = fmaxf(largest, load_through_l2(runs + s * width + a.head_dim));
    for (int s = 0; s < used; ++s)
      sum = fmaf(power(load_through_l2(runs + s * width + a.head_dim), largest), load_through_l2(runs + s * width + a.head_dim + 1), sum);
    if (a.softmax)
      for (int key = threadIdx.x; key < run.total; key += THREADS) {
        const size_t at = static_cast<size_t>(head) * a.map_stride + key;
        a.softmax[at] = power(load_through_l2(a.scores + at), largest) / sum;
      }
    for (int i = threadIdx.x; i < a.head_dim; i += THREADS) {
      float value = 0.0f;
      for (int s = 0; s < used; ++s)
        value = fmaf(power(load_through_l2(runs + s * width + a.head_dim), largest), load_through_l2(runs + s * width + i), value);
      a.out[head * a.head_dim + i] = weights[g * MAX_DIM + i] = value / sum;
    }
  }
  __syncthreads();
  if (!a.q8.levels) return;
  // All heads of the block are adjacent: a multiple of 32 values, one block of Q8_1 for each warp.
  for (int i = threadIdx.x; i < run.heads * a.head_dim; i += THREADS)
    quantize_block(weights[i / a.head_dim * MAX_DIM + i % a.head_dim], a.q8, (run.first_head * a.head_dim + i) / 32);
}

template <class T>
INLINE void attend(const Attention& a, const Step* step, float* partial, unsigned* counters, Shared<float> queries,
                   Shared<float> scores, Shared<float> states) {
  const int group = a.heads / a.kv_heads, total = step->position + 1, splits = gridDim.x;
  const int length = ((total + splits - 1) / splits + TILE - 1) / TILE * TILE;
  const int begin = blockIdx.x * length, first = blockIdx.z * AT_ONCE;
  const Run run{begin, min(total, begin + length), total, length, static_cast<int>(blockIdx.y) * group + first,
                min(AT_ONCE, group - first)};
  const Shared<float> largest = states, sums = part_of(states, AT_ONCE), factors = part_of(states, 2 * AT_ONCE);
  for (int i = threadIdx.x; i < run.heads * a.head_dim; i += THREADS)
    queries[i / a.head_dim * MAX_DIM + i % a.head_dim] = a.q[run.first_head * a.head_dim + i];
  if (threadIdx.x < AT_ONCE) largest[threadIdx.x] = -INFINITY, sums[threadIdx.x] = 0.0f;
  __syncthreads();
  float totals[AT_ONCE][MAX_DIM / THREADS] = {};
  for (int start = run.begin; start < run.end; start += TILE) {
    score_tile<T>(a, run, start, queries, scores);
    __syncthreads();
    raise_tile(run, scores, largest, sums, factors);
    __syncthreads();
    add_values<T>(a, run, start, scores, factors, totals);
    __syncthreads();
  }
  if (run.begin < run.end) {
#pragma unroll
    for (int g = 0; g < AT_ONCE; ++g) {
      if (g >= run.heads) break;
      float* own = partial + (static_cast<size_t>(run.first_head + g) * splits + blockIdx.x) * (a.head_dim + 2);
#pragma unroll
      for (int j = 0; j < MAX_DIM / THREADS; ++j)
        if (static_cast<int>(threadIdx.x) + j * THREADS < a.head_dim) own[threadIdx.x + j * THREADS] = totals[g][j];
      if (threadIdx.x == 0) own[a.head_dim] = largest[g], own[a.head_dim + 1] = sums[g];
    }
  }
  if (last_block(counters + blockIdx.y * gridDim.z + blockIdx.z, splits)) join_runs(a, run, partial, queries);
}

KERNEL __launch_bounds__(128, 6) attend_one(Attention a, const Step* step, float* partial, unsigned* counters) {
  SHARED(float, queries, AT_ONCE * MAX_DIM);
  SHARED(float, scores, AT_ONCE * TILE);
  SHARED(float, states, 3 * AT_ONCE);
  if (a.half_cache)
    attend<half>(a, step, partial, counters, queries, scores, states);
  else
    attend<float>(a, step, partial, counters, queries, scores, states);
}
