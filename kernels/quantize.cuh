// Rounding 32 values to one block of Q8_1: scale = absmax / 127 in float32, levels = nearest integers (ties to even).
//
// Equal to the bit to `round_q8_1` of aprtui/engine/rounding.py. A block that holds NaN or Inf gets the scale NaN, and
// so does every product of it.
#pragma once

#include "types.cuh"

// Division by one number without the check of `/` for exponents near the ends of their range: its branches keep divisions from
// being made side by side. Rounded as `/` is, by the same steps, where the divisor is between 2^-100 and 2^100 and the quotient
// neither tiny nor huge.
struct Divisor {
  float value, reciprocal;

  INLINE explicit Divisor(float given) : value(given) {
    const float near = approximate_reciprocal(given);
    reciprocal = fmaf(near, fmaf(near, -given, 1.0f), near);
  }
  INLINE float quotient(float x) const {
    const float near = x * reciprocal;
    return fmaf(reciprocal, fmaf(near, -value, x), near);
  }
};

// Of which blocks all exponents are far from the ends, by the bits of the largest magnitude: 2^-60 to 2^60.
INLINE bool is_usual(unsigned largest) { return largest - 0x21800000u <= 0x5D800000u - 0x21800000u; }

// The scale of a block by the bits of its largest magnitude. These have the order of the magnitudes, with NaN above Inf:
// fmaxf would drop a NaN.
INLINE float q8_scale(unsigned largest) {
  return largest < INFINITY_BITS ? __uint_as_float(largest) / 127.0f : __uint_as_float(NAN_BITS);
}

// 0 where the scale is NaN. Subnormal scales are too coarse to keep levels below 128.
INLINE int q8_level(float value, float scale) {
  return scale > 0.0f ? max(-127, min(127, __float2int_rn(value / scale))) : 0;
}

// A warp's block, one value a lane; `block` counts blocks of 32 from the start of the output.
INLINE void quantize_block(float value, const Q8Output& out, size_t block) {
  const unsigned largest = warp_max(__float_as_uint(value) & MAGNITUDE_BITS);
  float scale;
  int level;
  if (is_usual(largest)) {
    scale = Divisor(127.0f).quotient(__uint_as_float(largest));
    level = __float2int_rn(Divisor(scale).quotient(value));
  } else {
    scale = q8_scale(largest);
    level = q8_level(value, scale);
  }
  int half_sum = level;
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) half_sum += __shfl_xor_sync(ALL_LANES, half_sum, distance);
  const int high_sum = __shfl_sync(ALL_LANES, half_sum, 16);
  out.levels[block * 32 + lane_index()] = static_cast<signed char>(level);
  if (lane_index() == 0) out.scales[block] = Q8Scale{scale, static_cast<short>(half_sum), static_cast<short>(high_sum)};
}

// COUNT times four values of a lane; eight lanes have a block. `blocks` are the lane's own. All lanes take part; of those that
// are not to `store` nothing is written. Each step is made of all values before the next one, so that none waits for another.
template <int COUNT>
INLINE void quantize_eighths(const float4 (&values)[COUNT], const Q8Output& out, const size_t (&blocks)[COUNT],
                             const bool (&store)[COUNT]) {
  float given[COUNT][4], scales[COUNT];
  unsigned largest[COUNT];
  int levels[COUNT][4], half_sums[COUNT];
  bool usual = true;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    given[i][0] = values[i].x, given[i][1] = values[i].y, given[i][2] = values[i].z, given[i][3] = values[i].w;
    largest[i] = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) largest[i] = max(largest[i], __float_as_uint(given[i][k]) & MAGNITUDE_BITS);
  }
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2)
#pragma unroll
    for (int i = 0; i < COUNT; ++i) largest[i] = max(largest[i], __shfl_xor_sync(ALL_LANES, largest[i], distance));
#pragma unroll
  for (int i = 0; i < COUNT; ++i) usual = usual && (is_usual(largest[i]) || !store[i]);
  if (usual) {
    const Divisor by_127(127.0f);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      scales[i] = by_127.quotient(__uint_as_float(largest[i]));
      const Divisor by(scales[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) levels[i][k] = __float2int_rn(by.quotient(given[i][k]));
    }
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      scales[i] = q8_scale(largest[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) levels[i][k] = q8_level(given[i][k], scales[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < COUNT; ++i) half_sums[i] = (levels[i][0] + levels[i][1]) + (levels[i][2] + levels[i][3]);
#pragma unroll
  for (int distance = 2; distance > 0; distance /= 2)
#pragma unroll
    for (int i = 0; i < COUNT; ++i) half_sums[i] += __shfl_xor_sync(ALL_LANES, half_sums[i], distance);
  const int place = lane_index() % 8;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    const int high_sum = __shfl_down_sync(ALL_LANES, half_sums[i], 4);
    if (!store[i]) continue;
    unsigned word = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) word |= (static_cast<unsigned>(levels[i][k]) & 0xFFu) << 8 * k;
    *reinterpret_cast<unsigned*>(out.levels + blocks[i] * 32 + 4 * place) = word;
    if (place == 0) out.scales[blocks[i]] = Q8Scale{scales[i], static_cast<short>(half_sums[i]), static_cast<short>(high_sum)};
  }
}
