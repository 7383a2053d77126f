// Softcapped logits.
//
//   softcap(const float* x, float* out, int count, float cap)
//
// Shapes: x, out [count]. out = cap * tanh(x / cap). Launch: blocks of 256 threads; grid (ceil(count / 256)). Must move: 8
// bytes a value.
#include "attention.cuh"

KERNEL __launch_bounds__(256) softcap(const float* x, float* out, int count, float cap) {
  wait_for_earlier_launches();
  const int at = blockIdx.x * 256 + threadIdx.x;
  if (at < count) out[at] = softcapped(x[at], cap);
}
