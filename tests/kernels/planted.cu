// Kernels that are wrong on purpose, each in one way: what the emulator must find. `clean_*` are the same, mended.
#include "common.cuh"

KERNEL missing_barrier(const float* x, float* y) {
  SHARED(float, kept, 128);
  kept[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = kept[127 - threadIdx.x];
}

KERNEL clean_barrier(const float* x, float* y) {
  SHARED(float, kept, 128);
  kept[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = kept[127 - threadIdx.x];
}

KERNEL different_barriers(float* y) {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
    y[threadIdx.x] = 1.0f;
  }
}

KERNEL half_of_a_warp_at_a_barrier(float* y) {
  if (lane_index() < 16)
    y[threadIdx.x] = __shfl_xor_sync(ALL_LANES, 1.0f, 1);
  else
    __syncthreads();
}

KERNEL lanes_in_different_operations(float* y) {
  if (lane_index() < 16)
    y[threadIdx.x] = __shfl_xor_sync(ALL_LANES, 1.0f, 1);
  else
    y[threadIdx.x] = static_cast<float>(__ballot_sync(ALL_LANES, 1));
}

KERNEL lane_returned_early(float* y, int count) {
  if (static_cast<int>(threadIdx.x) >= count) return;
  y[threadIdx.x] = warp_sum(1.0f);
}

KERNEL uninitialised_shared(float* y) {
  SHARED(float, kept, 64);
  if (threadIdx.x < 31) kept[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = kept[threadIdx.x] > 0.0f ? 1.0f : 2.0f;
}

KERNEL beyond_the_end(float* y, int count) { y[threadIdx.x + count] = 1.0f; }

KERNEL before_the_start(float* y) { y[-1 - static_cast<int>(threadIdx.x)] = 1.0f; }

KERNEL far_beyond(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x + (1 << 20)]; }

KERNEL beyond_shared(float* y) {
  SHARED(float, kept, 32);
  kept[threadIdx.x + 1] = 1.0f;
  y[threadIdx.x] = kept[threadIdx.x];
}

KERNEL misaligned(const unsigned char* x, int* y) {
  const int4 wide = *reinterpret_cast<const int4*>(x + 4 + 16 * threadIdx.x);
  y[threadIdx.x] = wide.x + wide.y + wide.z + wide.w;
}

KERNEL depends_on_a_later_block(float* y) {
  if (threadIdx.x == 0) y[blockIdx.x] = blockIdx.x + 1 < gridDim.x ? y[blockIdx.x + 1] : 1.0f;
}

KERNEL undefined_shift(const int* x, int* y) { y[threadIdx.x] = 1 << x[threadIdx.x]; }

KERNEL divides_by_zero(const int* x, int* y) { y[threadIdx.x] = 7 / x[threadIdx.x]; }
