// Attention of one token over all positions so far, or the window's, keys split among blocks.
//
//   attend_one_<widest>_<heads> (Attention a, const Step* step, float* partial, unsigned* counters, float2* states)
//   attend_one_<widest>_<heads>_capped, of models with a softcap: its code costs the others none
//   scores_before_window(Attention a, const Step* step)
//   softmax_maps(float* maps, const float2* states, const Step* step, int heads, int map_stride, int layer_stride, int window,
//                float softcap)
//
// For heads of up to `widest` channels, a multiple of 8, and so many query heads at once. Shapes: see Attention, tokens = 1,
// a.capped and a.softmax null; q8 only where heads / kv_heads * head_dim is a multiple of 32. partial holds [heads, splits,
// head_dim] and behind it [heads, splits, 2]; counters [kv_heads * ceil(heads / kv_heads / at once)], 0 before and left at 0;
// splits at most 128.
//
// A block of 128 threads takes a K/V head, some of its query heads, and a run of keys, a tile at a time, which goes through
// shared memory; a warp has one or two of the heads. Its lanes are keys while it makes scores, and channels while it adds up
// values, with a running maximum (Milakov & Gimelshein 2018, arXiv:1805.02867). A tile's loads are under way while the one
// before it is used. The last block of a K/V head joins the runs. These are at least 32 keys long, so in a short context some
// blocks have no keys, and one graph serves all lengths.
// A map of exponentials needs the largest score of all runs and their sum, which are stored as states [heads] (or not, if that
// is null). softmax_maps makes the maps of many layers from them at once, behind the last one: of maps [layers, layer_stride],
// each of which begins with scores [heads, map_stride] and goes on with what the softcap makes of them, if there is one, and the
// exponentials, and states [layers, heads]. Layers of one launch have one window.
// scores_before_window stores the scores of the keys that the window leaves out, which attend_one does not look at: for taps.
// Launch: grid (splits, kv_heads, ceil(heads / kv_heads / at once)); softmax_maps: blocks of 256 threads, grid
// (ceil(map_stride / 1024), heads, layers); scores_before_window: blocks of 128 threads, grid (ceil(map_stride / 128), heads).
// Must move: keys and values of all positions once (for each walk over them), 4 bytes a value of q and out; taps 4 bytes a key
// and head, twice.
#include "attention.cuh"

constexpr int THREADS = 128, WARPS = THREADS / WARP, SHORTEST_RUN = 32, CHANNELS = 8, MAX_SPLITS = 128, TOGETHER = 16;

struct Run {
  int begin, end, seen, length, first_head, heads;  // of the `seen` keys, each run has up to `length`
};

// Eight channels of a half cache, four of one in float32.
INLINE void widen(int4 words, float (&values)[CHANNELS], const half*) {
  const int four[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __half2float(__ushort_as_half(static_cast<unsigned>(four[i]) & 0xFFFFu));
    values[2 * i + 1] = __half2float(__ushort_as_half(static_cast<unsigned>(four[i]) >> 16));
  }
}
INLINE void widen(int4 words, float (&values)[4], const float*) {
  values[0] = __int_as_float(words.x), values[1] = __int_as_float(words.y);
  values[2] = __int_as_float(words.z), values[3] = __int_as_float(words.w);
}

// Tiles of keys and values [KEYS, PITCH] in words of 16 bytes; the word behind each row keeps rows in different banks.
template <class T, int WIDEST>
struct Tile {
  static constexpr int KEYS = sizeof(T) == 4 && WIDEST == 256 ? 16 : WARP, OF_WORD = 16 / sizeof(T);
  static constexpr int WORDS = WIDEST / OF_WORD, PITCH = WORDS + 1, OF_THREAD = KEYS * WORDS / THREADS;
};

// What a thread loads of a tile: words threadIdx.x, threadIdx.x + THREADS, …; zeros where there is no key or channel.
template <class T, int WIDEST>
INLINE void load_tile(const T* rows, int dim, int start, int end, int4 (&words)[Tile<T, WIDEST>::OF_THREAD]) {
  using Of = Tile<T, WIDEST>;
#pragma unroll
  for (int i = 0; i < Of::OF_THREAD; ++i) {
    const int at = threadIdx.x + i * THREADS, key = start + at / Of::WORDS, channel = at % Of::WORDS * Of::OF_WORD;
    words[i] = make_int4(0, 0, 0, 0);
    if (key < end && channel < dim) words[i] = *reinterpret_cast<const int4*>(rows + static_cast<size_t>(key) * dim + channel);
  }
}
template <class T, int WIDEST>
INLINE void store_tile(const int4 (&words)[Tile<T, WIDEST>::OF_THREAD], Shared<int4> tile) {
  using Of = Tile<T, WIDEST>;
#pragma unroll
  for (int i = 0; i < Of::OF_THREAD; ++i) {
    const int at = threadIdx.x + i * THREADS;
    tile[at / Of::WORDS * Of::PITCH + at % Of::WORDS] = words[i];
  }
}

// What a warp has of its heads so far: the largest score, and relative to that each lane's share of the sum of exponentials,
// and the weighted values of its channels.
template <int WIDEST, int OF_WARP>
struct Sums {
  float largest[OF_WARP], total[OF_WARP], values[OF_WARP][WIDEST / WARP];
};

// Products of a lane's key with the warp's heads, four sums each: shorter sums err less, and do not wait for one another.
template <class T, int WIDEST, int OF_WARP>
INLINE void multiply_key(Shared<int4> keys, int dim, Shared<float> queries, float (&products)[OF_WARP]) {
  using Of = Tile<T, WIDEST>;
  float sums[OF_WARP][4] = {};
  const int key = lane_index() % Of::KEYS;
#pragma unroll 4
  for (int word = 0; word < dim / Of::OF_WORD; ++word) {
    float k[Of::OF_WORD];
    widen(keys[key * Of::PITCH + word], k, static_cast<const T*>(nullptr));
#pragma unroll
    for (int g = 0; g < OF_WARP; ++g)
#pragma unroll
      for (int c = 0; c < Of::OF_WORD; c += 4) {
        const float4 q = load_four(static_cast<const float*>(queries) + g * WIDEST + word * Of::OF_WORD + c);
        sums[g][0] = fmaf(q.x, k[c], sums[g][0]), sums[g][1] = fmaf(q.y, k[c + 1], sums[g][1]);
        sums[g][2] = fmaf(q.z, k[c + 2], sums[g][2]), sums[g][3] = fmaf(q.w, k[c + 3], sums[g][3]);
      }
  }
#pragma unroll
  for (int g = 0; g < OF_WARP; ++g) products[g] = (sums[g][0] + sums[g][1]) + (sums[g][2] + sums[g][3]);
}

// The exponentials of a tile's scores, into `powers` [OF_WARP, WARP], and `factors` that make what was summed so far relative
// to the new maximum.
template <class T, int WIDEST, int OF_WARP, bool CAPPED>
INLINE void score_tile(const Attention& a, const Run& run, int start, int first_head, Shared<int4> keys, Shared<float> queries,
                       Shared<float> powers, float (&factors)[OF_WARP], Sums<WIDEST, OF_WARP>& sums) {
  const int key = start + lane_index();
  const bool seen = lane_index() < Tile<T, WIDEST>::KEYS && key < run.end;
  float products[OF_WARP];
  multiply_key<T, WIDEST, OF_WARP>(keys, a.head_dim, queries, products);
#pragma unroll
  for (int g = 0; g < OF_WARP; ++g) {
    float score = seen ? products[g] * a.scale : -INFINITY;
    if (a.scores && seen && first_head + g < run.heads)
      a.scores[static_cast<size_t>(run.first_head + first_head + g) * a.map_stride + key] = score;
    if (CAPPED && seen) score = softcapped(score, a.softcap);
    const float before = sums.largest[g], now = fmaxf(before, warp_max(score));
    const float raised = power(score, now);
    factors[g] = power(before, now);
    sums.largest[g] = now;
    sums.total[g] = fmaf(sums.total[g], factors[g], raised);
    powers[g * WARP + lane_index()] = raised;
  }
  __syncwarp();
}

// The channels of a lane in a row of a tile.
template <class T, int COUNT>
INLINE void own_channels(Shared<int4> row, float (&found)[COUNT]) {
  const T* const from = reinterpret_cast<const T*>(static_cast<const int4*>(row)) + COUNT * lane_index();
  if constexpr (COUNT % 4 == 0) {
#pragma unroll
    for (int c = 0; c < COUNT; c += 4) {
      const float4 four = load_four(from + c);
      found[c] = four.x, found[c + 1] = four.y, found[c + 2] = four.z, found[c + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int c = 0; c < COUNT; ++c) found[c] = load_one(from + c);
  }
}

template <class T, int WIDEST, int OF_WARP>
INLINE void add_values(int count, Shared<int4> values, Shared<float> powers, const float (&factors)[OF_WARP],
                       Sums<WIDEST, OF_WARP>& sums) {
  constexpr int OF_LANE = WIDEST / WARP;
  float of_tile[OF_WARP][OF_LANE] = {};  // one sum over all keys would err more
#pragma unroll 2
  for (int key = 0; key < count; key += 4) {  // keys behind the last one have the power 0, and zeros as values
    float wide[4][OF_LANE];
#pragma unroll
    for (int k = 0; k < 4; ++k) own_channels<T>(part_of(values, (key + k) * Tile<T, WIDEST>::PITCH), wide[k]);
#pragma unroll
    for (int g = 0; g < OF_WARP; ++g) {
      const float4 p = load_four(static_cast<const float*>(powers) + g * WARP + key);
#pragma unroll
      for (int c = 0; c < OF_LANE; ++c) {
        const float first = fmaf(p.y, wide[1][c], fmaf(p.x, wide[0][c], of_tile[g][c]));
        of_tile[g][c] = fmaf(p.w, wide[3][c], fmaf(p.z, wide[2][c], first));
      }
    }
  }
#pragma unroll
  for (int g = 0; g < OF_WARP; ++g)
#pragma unroll
    for (int c = 0; c < OF_LANE; ++c) sums.values[g][c] = fmaf(sums.values[g][c], factors[g], of_tile[g][c]);
}

// What the run of keys comes to, for a warp's heads.
template <int WIDEST, int OF_WARP>
INLINE void store_run(const Attention& a, const Run& run, int first_head, const Sums<WIDEST, OF_WARP>& sums, float* partial) {
  constexpr int OF_LANE = WIDEST / WARP;
  const int splits = gridDim.x, dim = a.head_dim;
  float2* const states = reinterpret_cast<float2*>(partial + static_cast<size_t>(a.heads) * splits * dim);
#pragma unroll
  for (int g = 0; g < OF_WARP; ++g) {
    const float total = warp_sum(sums.total[g]);
    if (first_head + g >= run.heads) break;
    const size_t place = static_cast<size_t>(run.first_head + first_head + g) * splits + blockIdx.x;
    if (lane_index() == 0) states[place] = make_float2(sums.largest[g], total);
#pragma unroll
    for (int c = 0; c < OF_LANE; ++c)
      if (OF_LANE * lane_index() + c < dim) partial[place * dim + OF_LANE * lane_index() + c] = sums.values[g][c];
  }
}

// A warp has a head: its lanes are runs, then channels.
INLINE void join_runs(const Attention& a, const Run& run, const float* partial, float2* states, Shared<float> weights,
                      Shared<float> results) {
  const int splits = gridDim.x, used = (run.seen + run.length - 1) / run.length, dim = a.head_dim;
  const float2* of_runs = reinterpret_cast<const float2*>(partial + static_cast<size_t>(a.heads) * splits * dim);
  const Shared<float> own_weights = part_of(weights, warp_index() * MAX_SPLITS);
  for (int g = warp_index(); g < run.heads; g += WARPS) {
    const int head = run.first_head + g;
    const float* runs = partial + static_cast<size_t>(head) * splits * dim;
    float2 own[MAX_SPLITS / WARP];
    float largest = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < MAX_SPLITS / WARP; ++i) {
      const int s = lane_index() + i * WARP;
      own[i] = s < used ? load_through_l2(of_runs + static_cast<size_t>(head) * splits + s) : make_float2(-INFINITY, 0.0f);
      largest = fmaxf(largest, own[i].x);
    }
    largest = warp_max(largest);
    if (a.sinks) largest = fmaxf(largest, a.sinks[head]);
#pragma unroll
    for (int i = 0; i < MAX_SPLITS / WARP; ++i) {
      const float weight = power(own[i].x, largest);
      sum = fmaf(weight, own[i].y, sum);
      own_weights[lane_index() + i * WARP] = weight;
    }
    sum = warp_sum(sum);
    if (a.sinks) sum += power(a.sinks[head], largest);
    __syncwarp();
    for (int i = 4 * lane_index(); i < dim; i += 4 * WARP) {
      float4 value = make_float4(0, 0, 0, 0);
      // Sixteen runs are under way together; those behind the last one have the weight 0.
      for (int first = 0; first < used; first += TOGETHER) {
        float4 loaded[TOGETHER];
#pragma unroll
        for (int j = 0; j < TOGETHER; ++j)
          loaded[j] = load_through_l2(reinterpret_cast<const float4*>(runs + static_cast<size_t>(min(first + j, used - 1)) * dim + i));
#pragma unroll
        for (int j = 0; j < TOGETHER; ++j) {
          const float weight = own_weights[first + j];
          value.x = fmaf(weight, loaded[j].x, value.x), value.y = fmaf(weight, loaded[j].y, value.y);
          value.z = fmaf(weight, loaded[j].z, value.z), value.w = fmaf(weight, loaded[j].w, value.w);
        }
      }
      value = make_float4(value.x / sum, value.y / sum, value.z / sum, value.w / sum);
      *reinterpret_cast<float4*>(a.out + head * dim + i) = value;
      const int at = g * dim + i;
      results[at] = value.x, results[at + 1] = value.y, results[at + 2] = value.z, results[at + 3] = value.w;
    }
    if (states && lane_index() == 0) states[head] = make_float2(largest, sum);
    __syncwarp();
  }
  if (!a.q8.levels) return;
  __syncthreads();
  // All heads of the block are adjacent: a multiple of 32 values, one block of Q8_1 for each warp.
  for (int i = threadIdx.x; i < run.heads * dim; i += THREADS)
    quantize_block(results[i], a.q8, (run.first_head * dim + i) / 32);
}

template <class T, int WIDEST, int OF_WARP, bool CAPPED>
INLINE void attend_run(const Attention& a, const Run& run, float* partial, Shared<float> queries, Shared<float> powers,
                       Shared<int4> keys, Shared<int4> values) {
  using Of = Tile<T, WIDEST>;
  constexpr int HEADS = WARPS * OF_WARP;
  const int dim = a.head_dim, first_head = warp_index() * OF_WARP;
  const size_t cache = static_cast<size_t>(blockIdx.y) * a.context * dim;
  const T *const all_keys = static_cast<const T*>(a.key_cache) + cache, *const all_values = static_cast<const T*>(a.value_cache) + cache;
  int4 next_keys[Of::OF_THREAD], next_values[Of::OF_THREAD];
  load_tile<T, WIDEST>(all_keys, dim, run.begin, run.end, next_keys);
  load_tile<T, WIDEST>(all_values, dim, run.begin, run.end, next_values);
  for (int i = threadIdx.x; i < HEADS * WIDEST; i += THREADS) {
    const int g = i / WIDEST, channel = i % WIDEST;
    queries[i] = g < run.heads && channel < dim ? a.q[(run.first_head + g) * dim + channel] : 0.0f;
  }
  const Shared<float> own_queries = part_of(queries, first_head * WIDEST), own_powers = part_of(powers, first_head * WARP);
  Sums<WIDEST, OF_WARP> sums = {};
#pragma unroll
  for (int g = 0; g < OF_WARP; ++g) sums.largest[g] = -INFINITY;
  for (int start = run.begin; start < run.end; start += Of::KEYS) {
    store_tile<T, WIDEST>(next_keys, keys);
    store_tile<T, WIDEST>(next_values, values);
    __syncthreads();
    load_tile<T, WIDEST>(all_keys, dim, start + Of::KEYS, run.end, next_keys);
    load_tile<T, WIDEST>(all_values, dim, start + Of::KEYS, run.end, next_values);
    float factors[OF_WARP];
    score_tile<T, WIDEST, OF_WARP, CAPPED>(a, run, start, first_head, keys, own_queries, own_powers, factors, sums);
    add_values<T, WIDEST, OF_WARP>(min(Of::KEYS, run.end - start), values, own_powers, factors, sums);
    __syncthreads();
  }
  store_run<WIDEST, OF_WARP>(a, run, first_head, sums, partial);
}

template <int WIDEST, int OF_WARP, bool CAPPED>
INLINE void attend(const Attention& a, const Step* step, float* partial, unsigned* counters, float2* states,
                   Shared<float> queries, Shared<float> powers, Shared<int4> keys, Shared<int4> values) {
  constexpr int HEADS = WARPS * OF_WARP;
  const int group = a.heads / a.kv_heads, total = step->position + 1, splits = gridDim.x;
  const int seen = a.window ? min(total, a.window) : total;
  const int length = ((seen + splits - 1) / splits + SHORTEST_RUN - 1) / SHORTEST_RUN * SHORTEST_RUN;
  const int begin = total - seen + blockIdx.x * length, first = blockIdx.z * HEADS;
  const Run run{begin, min(total, begin + length), seen, length, static_cast<int>(blockIdx.y) * group + first,
                min(HEADS, group - first)};
  if (run.begin < run.end) {
    if (a.half_cache)
      attend_run<half, WIDEST, OF_WARP, CAPPED>(a, run, partial, queries, powers, keys, values);
    else
      attend_run<float, WIDEST, OF_WARP, CAPPED>(a, run, partial, queries, powers, keys, values);
  }
  if (last_block(counters + blockIdx.y * gridDim.z + blockIdx.z, splits))
    join_runs(a, run, partial, states, powers, queries);
}

// Tiles in float32 are the largest, but for heads of 256 channels, which have half as many keys.
#define RUN(WIDEST, HEADS, CAPPED)                                \
  constexpr int TILE = Tile<float, WIDEST>::KEYS * Tile<float, WIDEST>::PITCH, HALF = Tile<half, WIDEST>::KEYS * Tile<half, WIDEST>::PITCH; \
  SHARED(float, queries, HEADS * WIDEST); /* then results */      \
  SHARED(float, powers, WARPS * MAX_SPLITS); /* then weights of runs */ \
  SHARED(int4, keys, TILE > HALF ? TILE : HALF);                  \
  SHARED(int4, values, TILE > HALF ? TILE : HALF);                \
  wait_for_earlier_launches();                                    \
  attend<WIDEST, HEADS / WARPS, CAPPED>(a, step, partial, counters, states, queries, powers, keys, values)
#define ARGUMENTS Attention a, const Step *step, float *partial, unsigned *counters, float2 *states

KERNEL __launch_bounds__(128, 2) attend_one_64_4(ARGUMENTS) { RUN(64, 4, false); }
KERNEL __launch_bounds__(128, 2) attend_one_64_8(ARGUMENTS) { RUN(64, 8, false); }
KERNEL __launch_bounds__(128, 2) attend_one_128_4(ARGUMENTS) { RUN(128, 4, false); }
KERNEL __launch_bounds__(128, 2) attend_one_128_8(ARGUMENTS) { RUN(128, 8, false); }
KERNEL __launch_bounds__(128, 2) attend_one_256_4(ARGUMENTS) { RUN(256, 4, false); }
KERNEL __launch_bounds__(128, 2) attend_one_256_8(ARGUMENTS) { RUN(256, 8, false); }
KERNEL __launch_bounds__(128, 2) attend_one_64_4_capped(ARGUMENTS) { RUN(64, 4, true); }
KERNEL __launch_bounds__(128, 2) attend_one_128_4_capped(ARGUMENTS) { RUN(128, 4, true); }
KERNEL __launch_bounds__(128, 2) attend_one_256_4_capped(ARGUMENTS) { RUN(256, 4, true); }

template <class T>
INLINE float product_with_key(const Attention& a, int head, int key) {
  const size_t of_head = static_cast<size_t>(head / (a.heads / a.kv_heads)) * a.context;
  const T* const row = static_cast<const T*>(a.key_cache) + (of_head + key) * a.head_dim;
  float sums[4] = {};
  for (int i = 0; i < a.head_dim; i += 4) {
    const float4 q = load_four(a.q + head * a.head_dim + i), k = load_four(row + i);
    sums[0] = fmaf(q.x, k.x, sums[0]), sums[1] = fmaf(q.y, k.y, sums[1]);
    sums[2] = fmaf(q.z, k.z, sums[2]), sums[3] = fmaf(q.w, k.w, sums[3]);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

KERNEL __launch_bounds__(128) scores_before_window(Attention a, const Step* step) {
  wait_for_earlier_launches();
  const int key = blockIdx.x * 128 + threadIdx.x, head = blockIdx.y;
  if (key >= step->position + 1 - a.window) return;
  const float product = a.half_cache ? product_with_key<half>(a, head, key) : product_with_key<float>(a, head, key);
  a.scores[static_cast<size_t>(head) * a.map_stride + key] = product * a.scale;
}

KERNEL __launch_bounds__(256) softmax_maps(float* maps, const float2* states, const Step* step, int heads, int map_stride,
                                           int layer_stride, int window, float softcap) {
  constexpr int OF_THREAD = 4, OF_BLOCK = 256 * OF_THREAD;
  wait_for_earlier_launches();
  const int total = step->position + 1, first = blockIdx.x * OF_BLOCK + threadIdx.x;
  if (first >= total) return;
  const int oldest = window ? total - window : 0;
  const size_t of_map = static_cast<size_t>(heads) * map_stride;
  float* const scores = maps + static_cast<size_t>(blockIdx.z) * layer_stride + static_cast<size_t>(blockIdx.y) * map_stride;
  float* const softmax = scores + (softcap > 0.0f ? 2 : 1) * of_map;
  const float2 state = states[blockIdx.z * heads + blockIdx.y];
  float found[OF_THREAD];
#pragma unroll
  for (int i = 0; i < OF_THREAD; ++i) found[i] = scores[min(first + 256 * i, total - 1)];
#pragma unroll
  for (int i = 0; i < OF_THREAD; ++i) {
    const int key = first + 256 * i;
    if (key >= total) break;
    if (softcap > 0.0f) scores[of_map + key] = found[i] = softcapped(found[i], softcap);
    softmax[key] = key >= oldest ? power(found[i], state.x) / state.y : 0.0f;
  }
}
