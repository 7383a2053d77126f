// The products of mma.cuh, each lane with fragments from memory.
#include "mma.cuh"

KERNEL deep(const int4* a, const int2* b, int4* d) {
  const int4 mine = a[threadIdx.x];
  d[threadIdx.x] = mma_16x8x32(make_int2(mine.x, mine.y), make_int2(mine.z, mine.w), b[threadIdx.x]);
}

KERNEL shallow(const int2* a, const int* b, int4* d) { d[threadIdx.x] = mma_16x8x16(a[threadIdx.x], b[threadIdx.x]); }

KERNEL halves(const int4* a, const int2* b, const float4* c, float4* d) {
  d[threadIdx.x] = mma_16x8x16_halves(a[threadIdx.x], b[threadIdx.x], c[threadIdx.x]);
}
