// Rounding 32 values to one block of Q8_1: scale = absmax / 127 in float32, levels = nearest integers (ties to even).
//
// Equal to the bit to `round_q8_1` of aprtui/engine/rounding.py. A block that holds NaN or Inf gets the scale NaN, and
// so does every product of it.
#pragma once

#include "types.cuh"

// A warp's block, one value a lane; `block` counts blocks of 32 from the start of the output.
INLINE void quantize_block(float value, const Q8Output& out, size_t block) {
  // Magnitudes have the order of their bits, with NaN above Inf: fmaxf would drop a NaN.
  const unsigned largest = warp_max(__float_as_uint(value) & MAGNITUDE_BITS);
  const bool finite = largest < INFINITY_BITS;
  const float scale = finite ? __uint_as_float(largest) / 127.0f : __uint_as_float(NAN_BITS);
  // Subnormal scales are too coarse to keep levels below 128.
  const int level = finite && scale > 0.0f ? max(-127, min(127, __float2int_rn(value / scale))) : 0;
  int half_sum = level;
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) half_sum += __shfl_xor_sync(ALL_LANES, half_sum, distance);
  const int high_sum = __shfl_sync(ALL_LANES, half_sum, 16);
  out.levels[block * 32 + lane_index()] = static_cast<signed char>(level);
  if (lane_index() == 0) out.scales[block] = Q8Scale{scale, static_cast<short>(half_sum), static_cast<short>(high_sum)};
}
