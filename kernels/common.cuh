// Included by every kernel file: CUDA, or its emulation on the host, and reductions over a warp.
#pragma once

#ifdef APRTUI_EMULATOR
#include "emulator/cuda_emulator.h"
template <class T>
using Shared = emulator::SharedArray<T>;
#else
#include <cuda_fp16.h>
#ifdef __CUDACC_RTC__  // compiled without the host's headers
#define INFINITY __int_as_float(0x7F800000)
#endif
// Shared arrays are declared through macros so that the emulator can poison them and check indices.
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define DYNAMIC_SHARED(type, name)                       \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  type* const name = reinterpret_cast<type*>(name##_bytes)
template <class T>
using Shared = T*;  // as a function parameter
#endif

// The shared array after the first `offset` values of another.
#ifdef APRTUI_EMULATOR
template <class T>
Shared<T> part_of(Shared<T> whole, size_t offset) {
  return {whole.values + offset, whole.count - offset, whole.name};
}
#else
template <class T>
__device__ __forceinline__ T* part_of(T* whole, size_t offset) {
  return whole + offset;
}
#endif

#define KERNEL extern "C" __global__ void
#define INLINE __device__ __forceinline__

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xFFFFFFFFu;
constexpr unsigned MAGNITUDE_BITS = 0x7FFFFFFFu, INFINITY_BITS = 0x7F800000u, NAN_BITS = 0x7FC00000u;

INLINE int lane_index() { return threadIdx.x % WARP; }
INLINE int warp_index() { return threadIdx.x / WARP; }

// Sums and maxima are formed as trees over the lanes in one fixed order, so that a run repeats to the bit; every lane
// gets the result.
template <class T>
INLINE T warp_sum(T value) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
  return value;
}

// Drops NaN, as fmaxf does.
INLINE float warp_max(float value) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

template <class T>
INLINE T warp_max(T value) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) value = max(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

template <class T>
INLINE T warp_min(T value) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) value = min(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

// The sum over a block of `WARPS` warps, for every thread; `scratch` holds WARPS values and may be reused afterwards.
template <int WARPS, class T>
INLINE T block_sum(T value, Shared<T> scratch) {
  value = warp_sum(value);
  if (lane_index() == 0) scratch[warp_index()] = value;
  __syncthreads();
  T total = 0;
#pragma unroll
  for (int i = 0; i < WARPS; ++i) total += scratch[i];
  __syncthreads();
  return total;
}

// The first step of every kernel: it waits for all that earlier launches have written, and lets the next launch begin, which
// then waits here. Where launches cannot begin early (before sm_90, or outside a graph) it does nothing.
// Before it a kernel may only `prefetch` what no kernel writes; tests/kernels/test_machine_code.py holds the code to that.
INLINE void wait_for_earlier_launches() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// What the compiler may take for granted.
INLINE void assume(bool holds) {
#ifndef APRTUI_EMULATOR
  __builtin_assume(holds);
#endif
}

// Has the second-level cache load what a kernel will read.
INLINE void prefetch(const void* place) {
#ifndef APRTUI_EMULATOR
  asm volatile("prefetch.global.L2 [%0];" ::"l"(place));
#endif
}

// 1 / value to within a unit of the last place. In the emulator its error depends on the value's bits, so that a result that
// hangs on it shows.
INLINE float approximate_reciprocal(float value) {
#ifdef APRTUI_EMULATOR
  const float exact = 1.0f / value;
  const unsigned bits = __float_as_uint(exact);
  return __uint_as_float(bits + (bits >> 3 ^ __float_as_uint(value) >> 5) % 3 - 1);
#else
  float found;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(value));
  return found;
#endif
}

// A value that another block of the launch may have written: read from L2, past the own multiprocessor's cache.
template <class T>
INLINE T load_through_l2(const T* place) {
#ifdef APRTUI_EMULATOR
  return *place;
#else
  return __ldcg(place);
#endif
}

// Whether the calling block is the last of `blocks` to get here with this counter: then it sees everything that the
// others wrote to global memory before. Leaves the counter at 0 for the next launch.
INLINE bool last_block(unsigned* counter, unsigned blocks) {
  SHARED(unsigned, before, 1);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) before[0] = atomicAdd(counter, 1u);
  __syncthreads();
  const bool last = before[0] == blocks - 1;
  if (last) {
    __threadfence();
    if (threadIdx.x == 0) *counter = 0;
  }
  __syncthreads();
  return last;
}
