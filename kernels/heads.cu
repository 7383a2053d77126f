// Bias, norm of each head, RoPE, a factor of the position and K/V write after the matrix products of a prompt.
//
//   heads(Heads h, const Step* step)
//
// Shapes: see Heads. Token t of the pass is at step->position + t. Launch: a block of 128 threads a head and token; grid
// (heads + 2 kv_heads, tokens). Must move: 4 bytes a value of h.product in, of q_turned and the cache (2 where it is half)
// out, and of each tap.
#include "heads.cuh"

KERNEL __launch_bounds__(128) heads(Heads h, const Step* step) {
  SHARED(float, values, MAX_HEAD_DIM);
  SHARED(float, scratch, 4);
  wait_for_earlier_launches();
  finish_head(h, blockIdx.x, blockIdx.y, step->position + static_cast<int>(blockIdx.y), values, scratch);
}
