// Activations to Q8_1, where no earlier kernel has rounded them.
//
//   quantize(const float* x, Q8Output out, int blocks)
//
// Shapes: x [blocks, 32] (rows of a multiple of 32 channels, one after the other); out.levels [blocks, 32], out.scales
// [blocks]. Launch: blocks of 256 threads, a warp a block of 32; grid (ceil(blocks / 8)). Must move: 4 bytes a value in,
// 1.25 out.
#include "quantize.cuh"

KERNEL __launch_bounds__(256) quantize(const float* x, Q8Output out, int blocks) {
  wait_for_earlier_launches();
  const int block = blockIdx.x * 8 + warp_index();
  if (block >= blocks) return;
  quantize_block(x[static_cast<size_t>(block) * 32 + lane_index()], out, block);
}
