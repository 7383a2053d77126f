// Causal attention of the tokens of a prompt over caches in half, on tensor cores; of each query over its window, where there is
// one. Caches in float32: attend_prompt.cu.
//
//   attend_prompt_half_<widest>(Attention a, const Step* step)
//
// For heads of up to `widest` channels, a multiple of 8. Shapes: see Attention; a.q8 is not written (use `quantize`).
//
// A block of 128 threads takes a head and 64 queries (32 of the widest heads), and walks over the keys 32 at a time (64 of narrow heads, 16 of the widest) with a
// running maximum. A warp has 16 queries; of the widest heads two warps have the same ones, and half of the channels each.
//
// Numerics: tensor cores take halves. Keys and values are halves; a query and an exponential are each the sum of two, 22 bits
// of them: a query in the scale of its largest channel, an exponential in 2^15. Products are exact; sums are in float32, those
// over 32 channels or a tile of keys on tensor cores, which truncate, and these sums one after the other outside, rounded. So a
// value depends on its query and the keys that it sees alone. Where anything is not finite, the block starts again: then tensor
// cores get zeros in place of NaN and Inf, which are added one by one, so that none reaches a query that does not see it.
//
// Launch: grid (ceil(tokens / queries), heads); dynamic shared memory 32 KB (64 channels) or 48 KB. Must move: for each 64 queries
// (32) the keys and values up to the last of them (mostly from L2), 4 bytes a value of q and out; taps 4 bytes a map entry, three
// times. Must compute: 8 operations a query, key and channel.
#include "attention.cuh"
#include "attention_tiles.cuh"
#include "mma.cuh"

constexpr float POWER_SCALE = 32768.0f;

INLINE bool is_finite(float value) { return (__float_as_uint(value) & INFINITY_BITS) != INFINITY_BITS; }

// Two halves, with zero in place of what is not finite.
INLINE int finite_halves(int two) {
  const unsigned bits = static_cast<unsigned>(two);
  const unsigned low = (bits & 0x7C00u) == 0x7C00u ? 0 : bits & 0xFFFFu;
  const unsigned high = (bits & 0x7C000000u) == 0x7C000000u ? 0 : bits & 0xFFFF0000u;
  return static_cast<int>(low | high);
}
INLINE int4 finite_halves(int4 eight) {
  return make_int4(finite_halves(eight.x), finite_halves(eight.y), finite_halves(eight.z), finite_halves(eight.w));
}

INLINE int two_halves(float first, float second) {
  const half2 two = __floats2half2_rn(first, second);
  return *reinterpret_cast<const int*>(&two);
}
INLINE float half_of(int two, bool upper) {
  const unsigned bits = static_cast<unsigned>(two) >> (upper ? 16 : 0);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits & 0xFFFFu)));
}

INLINE int channel_of(int4 four, int i) { return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w; }

// Two values as high and low halves, whose sum has 22 bits of them.
struct Split {
  int high, low;

  INLINE Split(float first, float second) {
    high = two_halves(first, second);
    low = two_halves(first - half_of(high, false), second - half_of(high, true));
  }
};

// The rows of a cache that a block reads, of its K/V head.
struct Rows {
  const half* values;
  int dim;

  INLINE const half* at(int key) const { return values + static_cast<size_t>(key) * dim; }
  // 8 channels of row `key`; zeros outside of the rows from `begin` to `end`, and behind the last channel.
  INLINE int4 word(int key, int begin, int end, int word) const {
    if (static_cast<unsigned>(key - begin) >= static_cast<unsigned>(end - begin) || 8 * word >= dim) return make_int4(0, 0, 0, 0);
    return *reinterpret_cast<const int4*>(values + static_cast<unsigned>(key * dim + 8 * word));
  }
};

// What a thread loads of a tile of keys and values while the one before is used.
template <int WIDEST>
struct Ahead {
  using Of = Sizes<WIDEST>;
  int4 keys[Of::LOADS], values[4];  // of the same channels of four rows, those of a quad

  INLINE void load(const Rows& key_rows, const Rows& value_rows, int start, int first_value, int end) {
#pragma unroll
    for (int i = 0; i < Of::LOADS; ++i) {
      const int at = threadIdx.x + i * THREADS;
      keys[i] = key_rows.word(start + at / Of::WORDS, 0, end, at % Of::WORDS);
    }
    const int quad = quad_of_thread<WIDEST>(), row = start + 16 * (quad / 4) + 2 * (quad % 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = value_rows.word(row + i % 2 + 8 * (i / 2), first_value, end, word_of_thread<WIDEST>());
  }
  INLINE void store(const Tiles& tiles, bool careful) {
    if (careful) {
#pragma unroll
      for (int i = 0; i < 4; ++i) keys[i] = finite_halves(keys[i]), values[i] = finite_halves(values[i]);
    }
#pragma unroll
    for (int i = 0; i < Of::LOADS; ++i) {
      const int at = threadIdx.x + i * THREADS;
      tiles.keys[key_word(at / Of::WORDS, at % Of::WORDS, WIDEST)] = keys[i];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int a = channel_of(values[0], i), b = channel_of(values[1], i), c = channel_of(values[2], i), d = channel_of(values[3], i);
      tiles.values[value_word(quad_of_thread<WIDEST>(), 4 * word_of_thread<WIDEST>() + i, WIDEST)] =
          make_int4(joined(a, b, 0x5410), joined(c, d, 0x5410), joined(a, b, 0x7632), joined(c, d, 0x7632));
    }
  }
  static INLINE int joined(int a, int b, unsigned selectors) {
    return static_cast<int>(__byte_perm(static_cast<unsigned>(a), static_cast<unsigned>(b), selectors));
  }
};

// The queries of a warp, and what it has of them. A lane has rows g and g + 8 of its 16, g = lane / 4.
template <int WIDEST>
struct Own {
  int row, token, slice;     // its first one in the block, and among the tokens; which of the slices is the warp's
  int position;              // of the lane's first row
  float factors[2];          // what turns products of the lane's rows into scores
  float largest[2], total[2];  // scores so far; the lane's share of the sum of exponentials, in POWER_SCALE
  float sums[Sizes<WIDEST>::PARTS][4][4];  // of channels 32 p + 8 t + i and 4 + i, first of row g: [p][i]
};

// Query rows as two halves, in the power of two that puts the largest channel of each between 2^14 and 2^15.
template <int WIDEST>
INLINE void store_queries(const Attention& a, int tokens, bool careful, const Tiles& tiles, Own<WIDEST>& own) {
  using Of = Sizes<WIDEST>;
#pragma unroll 4
  for (int r = 0; r < OF_WARP; ++r) {
    const int token = own.token + r;
    const float* const query = a.q + (static_cast<size_t>(token) * a.heads + blockIdx.y) * a.head_dim;
    float4 values[Of::SLICES];
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < Of::SLICES; ++i) {
      const int channel = 4 * lane_index() + 128 * i;
      values[i] = make_float4(0, 0, 0, 0);
      if (token < tokens && channel < a.head_dim) values[i] = load_four(query + channel);
      float4& v = values[i];
      if (careful) {
        v.x = is_finite(v.x) ? v.x : 0.0f, v.y = is_finite(v.y) ? v.y : 0.0f;
        v.z = is_finite(v.z) ? v.z : 0.0f, v.w = is_finite(v.w) ? v.w : 0.0f;
      }
      largest = fmaxf(fmaxf(largest, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
    }
    const unsigned exponent = max(__float_as_uint(warp_max(largest)) >> 23, 15u);
    const float scale = __uint_as_float((268 - exponent) << 23), factor = __uint_as_float((exponent - 14) << 23) * a.scale;
    if (r == lane_index() / 4) own.factors[0] = factor;
    if (r == lane_index() / 4 + 8) own.factors[1] = factor;
    const float4 v = values[Of::SLICES > 1 ? own.slice : 0];
    const Split front(v.x * scale, v.y * scale), back(v.z * scale, v.w * scale);
    const int word = lane_index() + 32 * own.slice;
    if (4 * word >= WIDEST) continue;
    const int at = query_word(own.row / 2 + r % 8, word, WIDEST), below = r / 8;
    int *const high = reinterpret_cast<int*>(&tiles.high[at]), *const low = reinterpret_cast<int*>(&tiles.low[at]);
    high[below] = front.high, high[2 + below] = back.high;
    low[below] = front.low, low[2 + below] = back.low;
  }
}

// scores[n]: products of the warp's queries with keys 8 n + 2 t, + 1 of the tile, rows g and g + 8.
template <int WIDEST>
INLINE void multiply_keys(const Tiles& tiles, int row, int runs, float (&scores)[Sizes<WIDEST>::TILES][4]) {
  using Of = Sizes<WIDEST>;
  const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
  for (int n = 0; n < Of::TILES; ++n) scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0.0f;
#pragma unroll
  for (int run = 0; run < Of::RUNS; ++run) {
    if (run >= runs) break;
    const int first = query_word(row / 2 + g, 8 * run + 2 * t, WIDEST), second = query_word(row / 2 + g, 8 * run + 2 * t + 1, WIDEST);
    const int4 high = tiles.high[first], more_high = tiles.high[second], low = tiles.low[first], more_low = tiles.low[second];
#pragma unroll
    for (int n = 0; n < Of::TILES; ++n) {
      const int4 key = tiles.keys[key_word(8 * n + g, 4 * run + t, WIDEST)];
      float4 part = make_float4(0, 0, 0, 0);
      part = mma_16x8x16_halves(low, make_int2(key.x, key.y), part);
      part = mma_16x8x16_halves(more_low, make_int2(key.z, key.w), part);
      part = mma_16x8x16_halves(high, make_int2(key.x, key.y), part);
      part = mma_16x8x16_halves(more_high, make_int2(key.z, key.w), part);
      scores[n][0] += part.x, scores[n][1] += part.y, scores[n][2] += part.z, scores[n][3] += part.w;
    }
  }
}

// sums = sums * factors + powers * values of the tile, for the lane's channels.
template <int WIDEST>
INLINE void add_values(const Tiles& tiles, int runs, const float (&powers)[Sizes<WIDEST>::TILES][4], const float (&factors)[2],
                       Own<WIDEST>& own) {
  using Of = Sizes<WIDEST>;
  const int g = lane_index() / 4, t = lane_index() % 4;
  int4 high[Of::STEPS], low[Of::STEPS];
#pragma unroll
  for (int s = 0; s < Of::STEPS; ++s) {
    const float(&first)[4] = powers[2 * s], (&second)[4] = powers[2 * s + 1];
    const Split a(first[0], first[1]), b(first[2], first[3]), c(second[0], second[1]), d(second[2], second[3]);
    high[s] = make_int4(a.high, b.high, c.high, d.high), low[s] = make_int4(a.low, b.low, c.low, d.low);
  }
#pragma unroll
  for (int p = 0; p < Of::PARTS; ++p) {
    const int run = p + own.slice * Of::PARTS;
    if (run >= runs) break;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float4 parts[2] = {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)};
      int4 words[Of::STEPS];
#pragma unroll
      for (int s = 0; s < Of::STEPS; ++s) words[s] = tiles.values[value_word(4 * s + t, 16 * run + 2 * g + half, WIDEST)];
#pragma unroll
      for (int s = 0; s < 2 * Of::STEPS; ++s) {
        const int4 a = s < Of::STEPS ? low[s] : high[s - Of::STEPS], b = words[s % Of::STEPS];
        parts[0] = mma_16x8x16_halves(a, make_int2(b.x, b.y), parts[0]);
        parts[1] = mma_16x8x16_halves(a, make_int2(b.z, b.w), parts[1]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float(&sums)[4] = own.sums[p][2 * half + i];
        sums[0] = fmaf(sums[0], factors[0], parts[i].x), sums[1] = fmaf(sums[1], factors[0], parts[i].y);
        sums[2] = fmaf(sums[2], factors[1], parts[i].z), sums[3] = fmaf(sums[3], factors[1], parts[i].w);
      }
    }
  }
}

// What a tensor core was not given, added to the scores: products of a query and a key of which one value is not finite.
template <int WIDEST>
INLINE void add_special_products(const Attention& a, int tokens, int start, int end, const Rows& keys, const Own<WIDEST>& own,
                                 float (&scores)[Sizes<WIDEST>::TILES][4]) {
#pragma unroll 1
  for (int at = 0; at < 4 * Sizes<WIDEST>::TILES; ++at) {
    const int token = own.token + lane_index() / 4 + 8 * (at / 2 % 2), key = start + 8 * (at / 4) + 2 * (lane_index() % 4) + at % 2;
    if (token >= tokens || key >= end) continue;
    const float* const query = a.q + (static_cast<size_t>(token) * a.heads + blockIdx.y) * a.head_dim;
    float sum = 0.0f;
#pragma unroll 1
    for (int channel = 0; channel < a.head_dim; ++channel) {
      const float q = query[channel], k = load_one(keys.at(key) + channel);
      if (!is_finite(q) || !is_finite(k)) sum = fmaf(q, k, sum);
    }
#pragma unroll
    for (int i = 0; i < 4 * Sizes<WIDEST>::TILES; ++i)
      if (i == at && sum != 0.0f) scores[i / 4][i % 4] += sum * a.scale;
  }
}

// The values that are not finite, added to the sums of the queries that see them.
template <int WIDEST>
INLINE void add_special_values(const Rows& values, int begin, int end, int reach, Own<WIDEST>& own) {
  using Of = Sizes<WIDEST>;
#pragma unroll 1
  for (int key = begin; key < end; ++key)
#pragma unroll
    for (int p = 0; p < Of::PARTS; ++p) {
      const int4 eight = values.word(key, begin, end, 4 * (p + own.slice * Of::PARTS) + lane_index() % 4);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float value = half_of(channel_of(eight, i / 2), i % 2);
        if (is_finite(value)) continue;
        if (sees(own.position, key, reach)) own.sums[p][i % 4][i / 4] += value;
        if (sees(own.position + 8, key, reach)) own.sums[p][i % 4][i / 4 + 2] += value;
      }
    }
}

// The largest, or the sum, of the four lanes that share a row.
INLINE float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
  return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}
INLINE float row_sum(float value) {
  value += __shfl_xor_sync(ALL_LANES, value, 1);
  return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

// One tile: of queries and keys that are in shared memory.
template <int WIDEST>
INLINE void attend_tile(const Attention& a, int tokens, int start, int end, const Rows& keys, const Tiles& tiles, bool careful,
                        Own<WIDEST>& own) {
  using Of = Sizes<WIDEST>;
  const int runs = (a.head_dim + RUN - 1) / RUN, g = lane_index() / 4, t = lane_index() % 4, reach = reach_of(a);
  const int first = own.position - g, last = first + OF_WARP - 1;  // positions of the warp's queries
  if (start > last || (!a.scores && first - (start + Of::KEYS - 1) >= reach)) return;
  float scores[Of::TILES][4];
  multiply_keys<WIDEST>(tiles, own.row, runs, scores);
#pragma unroll
  for (int n = 0; n < Of::TILES; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] *= own.factors[i / 2];
  if (careful) add_special_products<WIDEST>(a, tokens, start, end, keys, own, scores);
  if (a.scores && own.slice == 0) {
#pragma unroll
    for (int n = 0; n < Of::TILES; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int below = 8 * (i / 2), key = start + 8 * n + 2 * t + i % 2, token = own.token + g + below;
        if (token < tokens && key <= own.position + below) {
          a.scores[(static_cast<size_t>(blockIdx.y) * tokens + token) * a.map_stride + key] = scores[n][i];
          if (!careful && !is_finite(scores[n][i])) own.sums[0][0][0] = INFINITY;  // a window may hide it: start again
        }
      }
  }
  if (a.softcap > 0.0f) {
#pragma unroll
    for (int n = 0; n < Of::TILES; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] = softcapped(scores[n][i], a.softcap);
  }
  const bool seen = start + Of::KEYS - 1 <= first && last - start < reach;  // all keys by all queries
  float now[2] = {own.largest[0], own.largest[1]}, factors[2];
#pragma unroll
  for (int n = 0; n < Of::TILES; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!seen && !sees(own.position + 8 * (i / 2), start + 8 * n + 2 * t + i % 2, reach)) scores[n][i] = -INFINITY;
      now[i / 2] = fmaxf(now[i / 2], scores[n][i]);
    }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    now[r] = row_max(now[r]);
    factors[r] = power(own.largest[r], now[r]);
    own.largest[r] = now[r];
    own.total[r] *= factors[r];
  }
#pragma unroll
  for (int n = 0; n < Of::TILES; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = POWER_SCALE * power(scores[n][i], now[i / 2]);
      own.total[i / 2] += scores[n][i];
    }
  add_values<WIDEST>(tiles, runs, scores, factors, own);
}

// Whether every sum of every warp is finite.
template <int WIDEST>
INLINE bool all_finite(const Own<WIDEST>& own, const Tiles& tiles) {
  float zero = 0.0f;
#pragma unroll
  for (int p = 0; p < Sizes<WIDEST>::PARTS; ++p)
#pragma unroll
    for (int i = 0; i < 16; ++i) zero = fmaf(own.sums[p][i / 4][i % 4], 0.0f, zero);
  const int found = __any_sync(ALL_LANES, zero != 0.0f);  // NaN
  if (lane_index() == 0) tiles.keys[warp_index()] = make_int4(found, 0, 0, 0);
  __syncthreads();
  int any = 0;
#pragma unroll
  for (int i = 0; i < WARPS; ++i) any |= tiles.keys[i].x;
  __syncthreads();
  return !any;
}

// The block's queries over all of their keys. Where it is careful, tensor cores get zeros in place of what is not finite.
template <int WIDEST>
INLINE void walk(const Attention& a, const Step* step, int first_value, int end, const Rows& keys, const Rows& values,
                 const Tiles& tiles, bool careful, Own<WIDEST>& own) {
  using Of = Sizes<WIDEST>;
  const int tokens = step->tokens, oldest = a.scores ? 0 : first_value / Of::KEYS * Of::KEYS;  // scores are wanted of all keys
  Ahead<WIDEST> ahead;
  ahead.load(keys, values, oldest, first_value, end);
  store_queries<WIDEST>(a, tokens, careful, tiles, own);
#pragma unroll
  for (int r = 0; r < 2; ++r) own.largest[r] = -INFINITY, own.total[r] = 0.0f;
#pragma unroll
  for (int p = 0; p < Of::PARTS; ++p)
#pragma unroll
    for (int i = 0; i < 16; ++i) own.sums[p][i / 4][i % 4] = 0.0f;
  for (int start = oldest; start < end; start += Of::KEYS) {
    ahead.store(tiles, careful);
    __syncthreads();
    ahead.load(keys, values, start + Of::KEYS, first_value, end);
    attend_tile<WIDEST>(a, tokens, start, end, keys, tiles, careful, own);
    __syncthreads();
  }
}

// The sums of the lane's row g, or g + 8, times `scale`.
template <int WIDEST>
INLINE void store_sums(const Attention& a, int tokens, int lower, float scale, const Own<WIDEST>& own) {
  using Of = Sizes<WIDEST>;
  const int token = own.token + lane_index() / 4 + 8 * lower;
  if (token >= tokens) return;
  float* const out = a.out + (static_cast<size_t>(token) * a.heads + blockIdx.y) * a.head_dim;
#pragma unroll
  for (int p = 0; p < Of::PARTS; ++p) {
    const int channel = RUN * (p + own.slice * Of::PARTS) + 8 * (lane_index() % 4);
    if (channel >= a.head_dim) break;
    const float(&sums)[4][4] = own.sums[p];
    float4* const place = reinterpret_cast<float4*>(out + channel);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = 2 * lower + i;
      place[i] = make_float4(sums[0][at] * scale, sums[1][at] * scale, sums[2][at] * scale, sums[3][at] * scale);
    }
  }
}

template <int WIDEST>
INLINE void attend(const Attention& a, const Step* step, Shared<int4> memory) {
  using Of = Sizes<WIDEST>;
  constexpr int OF_QUERIES = Of::QUERIES * Of::WORDS, OF_KEYS = Of::KEYS * Of::WORDS;
  const Tiles tiles{memory, part_of(memory, OF_QUERIES), part_of(memory, 2 * OF_QUERIES), part_of(memory, 2 * OF_QUERIES + OF_KEYS)};
  const int dim = a.head_dim, tokens = step->tokens, position = step->position, first = blockIdx.x * Of::QUERIES;
  const int reach = reach_of(a), end = min(position + tokens, position + first + Of::QUERIES);
  const int first_value = max(0, position + first - reach + 1);  // the first one that a query of the block sees
  const size_t cache = static_cast<size_t>(blockIdx.y / (a.heads / a.kv_heads)) * a.context * dim;
  const Rows keys{static_cast<const half*>(a.key_cache) + cache, dim}, values{static_cast<const half*>(a.value_cache) + cache, dim};
  Own<WIDEST> own;
  own.row = warp_index() / Of::SLICES * OF_WARP, own.slice = warp_index() % Of::SLICES;
  own.token = first + own.row, own.position = position + own.token + lane_index() / 4;
#pragma unroll 1
  for (int pass = 0; pass < 2; ++pass) {
    walk<WIDEST>(a, step, first_value, end, keys, values, tiles, pass > 0, own);
    if (pass > 0)
      add_special_values<WIDEST>(values, first_value, end, reach, own);
    else if (all_finite<WIDEST>(own, tiles))
      break;
  }
  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float total = row_sum(own.total[r]), factor = 1.0f;
    if (a.sinks) {
      const float before = own.largest[r], sink = a.sinks[blockIdx.y];
      own.largest[r] = fmaxf(before, sink);
      factor = power(before, own.largest[r]);
      total = total * factor + POWER_SCALE * power(sink, own.largest[r]);
    }
    inverse[r] = 1.0f / total;
    store_sums<WIDEST>(a, tokens, r, factor * inverse[r], own);
  }
  if (!a.scores || own.slice != 0) return;
#pragma unroll 1
  for (int r = 0; r < min(OF_WARP, tokens - own.token); ++r) {
    const float largest = __shfl_sync(ALL_LANES, r < 8 ? own.largest[0] : own.largest[1], r % 8 * 4);
    const float found = __shfl_sync(ALL_LANES, r < 8 ? inverse[0] : inverse[1], r % 8 * 4);
    finish_map(a, *step, own.token + r, largest, POWER_SCALE * found);
  }
}

#define RUN_OF(WIDEST)          \
  DYNAMIC_SHARED(int4, memory); \
  wait_for_earlier_launches();  \
  attend<WIDEST>(a, step, memory)

KERNEL __launch_bounds__(128, 2) attend_prompt_half_64(Attention a, const Step* step) { RUN_OF(64); }
KERNEL __launch_bounds__(128, 2) attend_prompt_half_128(Attention a, const Step* step) { RUN_OF(128); }
KERNEL __launch_bounds__(128, 2) attend_prompt_half_256(Attention a, const Step* step) { RUN_OF(256); }
