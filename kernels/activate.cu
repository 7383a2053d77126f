// The activation of gate, times up, and its rounding to Q8_1, after the matrix products of a prompt.
//
//   activate(const float* gate, const float* up, FeedForward f, int blocks)
//
// Shapes: gate, up and f's [blocks, 32]; f.gate and f.up are null (they are the inputs). Launch: blocks of 256 threads, a
// warp 32 values; grid (ceil(blocks / 8)). Must move: 8 bytes a value in, 4 for each output, 1.25 for Q8_1.
#include "activation.cuh"

KERNEL __launch_bounds__(256) activate(const float* gate, const float* up, FeedForward f, int blocks) {
  wait_for_earlier_launches();
  const int block = blockIdx.x * 8 + warp_index();
  if (block >= blocks) return;
  const size_t at = static_cast<size_t>(block) * 32 + lane_index();
  const float value = activated(f, at, gate[at], up[at]);
  if (f.q8.levels) quantize_block(value, f.q8, block);
}
