// Products of small tiles of int8 or half on tensor cores, and their counterparts in the emulator.
//
// A warp supplies 16 rows of A and 8 columns of B and gets their exact 16 x 8 dot products in int32. Lane l holds, with
// g = l / 4 and t = l % 4, each int four bytes of k: of A rows g and g + 8, of B column g, and of the products
// (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1): the fragments of the PTX ISA's mma.m16n8k16 and mma.m16n8k32.
//
// Products of halves are exact, too, but of their sum a tensor core keeps few more bits than the largest addend has in float32,
// and cuts off the rest (Fasi et al. 2021, doi:10.7717/peerj-cs.330). The emulator keeps one bit more, and adds up eight products
// at a time, as A100 is reported to do; no device has been measured here.
#pragma once

#include "common.cuh"

#ifdef APRTUI_EMULATOR
#include "emulator/mma.h"
#else

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
// Turing takes eight rows and a depth of 16 at a time.
INLINE void mma_8x8x16(int& first, int& second, int a, int b) {
  asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+r"(first), "+r"(second)
      : "r"(a), "r"(b));
}
INLINE int4 mma_16x8x16(int2 a, int b) {
  int4 d = make_int4(0, 0, 0, 0);
  mma_8x8x16(d.x, d.y, a.x, b);
  mma_8x8x16(d.z, d.w, a.y, b);
  return d;
}
INLINE int4 mma_16x8x32(int2 a_low, int2 a_high, int2 b) {
  int4 d = mma_16x8x16(a_low, b.x);
  mma_8x8x16(d.x, d.y, a_high.x, b.y);
  mma_8x8x16(d.z, d.w, a_high.y, b.y);
  return d;
}
#else
// k 0-15: bytes 4t … 4t + 3 of row g in a.x, of row g + 8 in a.y, of column g in b.
INLINE int4 mma_16x8x16(int2 a, int b) {
  int4 d;
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
      : "=r"(d.x), "=r"(d.y), "=r"(d.z), "=r"(d.w)
      : "r"(a.x), "r"(a.y), "r"(b), "r"(0));
  return d;
}
// k 0-15 as above in a_low and b.x, k 16-31 in a_high and b.y.
INLINE int4 mma_16x8x32(int2 a_low, int2 a_high, int2 b) {
  int4 d;
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
      : "=r"(d.x), "=r"(d.y), "=r"(d.z), "=r"(d.w)
      : "r"(a_low.x), "r"(a_low.y), "r"(a_high.x), "r"(a_high.y), "r"(b.x), "r"(b.y), "r"(0));
  return d;
}
#endif

// c + A B over k 0-15, halves: k 2t and 2t + 1 of row g in a.x, of row g + 8 in a.y, of column g in b.x; k 2t + 8 and 2t + 9 in
// a.z, a.w and b.y.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
// Turing takes a depth of 8, and is reported to keep no bit more: its sums are added up outside.
INLINE float4 mma_16x8x8_halves(int a, int a_below, int b) {
  float4 d;
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
      : "=f"(d.x), "=f"(d.y), "=f"(d.z), "=f"(d.w)
      : "r"(a), "r"(a_below), "r"(b), "f"(0.0f));
  return d;
}
INLINE float4 mma_16x8x16_halves(int4 a, int2 b, float4 c) {
  float4 d = mma_16x8x8_halves(a.x, a.y, b.x);
  c = make_float4(c.x + d.x, c.y + d.y, c.z + d.z, c.w + d.w);
  d = mma_16x8x8_halves(a.z, a.w, b.y);
  return make_float4(c.x + d.x, c.y + d.y, c.z + d.z, c.w + d.w);
}
#else
INLINE float4 mma_16x8x16_halves(int4 a, int2 b, float4 c) {
  float4 d;
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d.x), "=f"(d.y), "=f"(d.z), "=f"(d.w)
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "f"(c.x), "f"(c.y), "f"(c.z), "f"(c.w));
  return d;
}
#endif

#endif
