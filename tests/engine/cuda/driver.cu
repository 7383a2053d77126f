// Kernels for tests of the driver layer.
#include "common.cuh"

// target[i] += amount · source[i]
KERNEL __launch_bounds__(128) add_scaled(float* target, const float* source, float amount, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) target[i] += amount * source[i];
}

// The sum of a block's values, through dynamic shared memory of one float a thread.
KERNEL sum_block(float* target, const float* source) {
  DYNAMIC_SHARED(float, values);
  values[threadIdx.x] = source[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0.0f;
    for (int i = 0; i < static_cast<int>(blockDim.x); ++i) sum += values[i];
    *target = sum;
  }
}

// Writes behind the end of `target`, which holds fewer than `count` values.
KERNEL stray(float* target, int count) {
  if (threadIdx.x == 0) target[count] = 1.0f;
}
