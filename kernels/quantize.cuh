// Rounding 32 values to one block of Q8_1: scale = absmax / 127 in float32, levels = nearest integers (ties to even).
//
// Equal to the bit to `round_q8_1` of aprtui/engine/rounding.py. A block that holds NaN or Inf gets the scale NaN, and
// so does every product of it.
#pragma once

#include "types.cuh"

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
  const float scale = q8_scale(warp_max(__float_as_uint(value) & MAGNITUDE_BITS));
  const int level = q8_level(value, scale);
  int half_sum = level;
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) half_sum += __shfl_xor_sync(ALL_LANES, half_sum, distance);
  const int high_sum = __shfl_sync(ALL_LANES, half_sum, 16);
  out.levels[block * 32 + lane_index()] = static_cast<signed char>(level);
  if (lane_index() == 0) out.scales[block] = Q8Scale{scale, static_cast<short>(half_sum), static_cast<short>(high_sum)};
}

// Four blocks of a warp, each by eight lanes with four values; `block` is the lane's own. All lanes take part; those that
// are not to `store` do not.
INLINE void quantize_eighth(float4 values, const Q8Output& out, size_t block, bool store) {
  const float given[4] = {values.x, values.y, values.z, values.w};
  unsigned largest = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) largest = max(largest, __float_as_uint(given[i]) & MAGNITUDE_BITS);
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2) largest = max(largest, __shfl_xor_sync(ALL_LANES, largest, distance));
  const float scale = q8_scale(largest);
  unsigned levels = 0;
  int half_sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int level = q8_level(given[i], scale);
    levels |= (static_cast<unsigned>(level) & 0xFFu) << 8 * i;
    half_sum += level;
  }
#pragma unroll
  for (int distance = 2; distance > 0; distance /= 2) half_sum += __shfl_xor_sync(ALL_LANES, half_sum, distance);
  const int place = lane_index() % 8, high_sum = __shfl_down_sync(ALL_LANES, half_sum, 4);
  if (!store) return;
  *reinterpret_cast<unsigned*>(out.levels + block * 32 + 4 * place) = levels;
  if (place == 0) out.scales[block] = Q8Scale{scale, static_cast<short>(half_sum), static_cast<short>(high_sum)};
}
