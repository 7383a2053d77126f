// RMSNorm of rows, and their rounding to Q8_1 in the same launch.
//
//   rms_norm(const float* x, const float* weight, float* out, Q8Output q8, int columns, float epsilon)
//
// Shapes: x, out [tokens, columns]; weight [columns]; q8.levels [tokens, columns], q8.scales [tokens, columns / 32].
// out = x / sqrt(mean(x²) + epsilon) * weight. out and q8.levels may be null. Columns are a multiple of 32, at most 16384.
//
// One block works alone while the device waits for it: it is made of round trips to memory, not of bytes. So each thread
// loads all of its values, and their weights, before it uses the first one.
// Launch: a block a token, of a thread for each four columns, in whole warps, at most 1024; grid (tokens). Must move: 4 bytes
// a value of x and of weight, 4 a value of out, 1.25 of q8.
#include "norm.cuh"

constexpr int MOST_PASSES = 4;

KERNEL __launch_bounds__(1024) rms_norm(const float* __restrict__ x, const float* __restrict__ weight, float* __restrict__ out,
                                        Q8Output q8, int columns, float epsilon) {
  SHARED(float, scratch, PIECES);
  wait_for_earlier_launches();
  const Norm norm{weight, out, q8, nullptr, epsilon};
  // One warp's instructions are another's wait here: no more of them than the width takes.
  if (columns <= PIECES * PIECE)
    norm_row<0, 1, 1>(x, norm, blockIdx.x, columns, scratch);
  else
    norm_row<0, 1, MOST_PASSES>(x, norm, blockIdx.x, columns, scratch);
}
