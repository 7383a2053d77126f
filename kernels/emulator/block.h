// One thread block at a time: threads as fibers, barriers, warp collectives, shared memory, and what goes wrong in them.
//
// A thread runs until it waits. Which of the ready threads runs next is the order: forward, reverse or shuffled (seeded);
// blocks run in the same order. A kernel whose result depends on the order lacks a barrier.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "fibers.h"

struct uint3 {
  unsigned x, y, z;
};

namespace emulator {

constexpr int MAX_THREADS = 1024, LANES = 32, MAX_WARPS = MAX_THREADS / LANES;
constexpr int STATIC_SHARED_BYTES = 48 << 10;
constexpr int MAX_SHARED_ARRAYS = 32;
constexpr unsigned FULL_WARP = 0xFFFFFFFFu;

enum class Order { FORWARD, REVERSE, SHUFFLED };

// What the last lane of a collective does for all of them; slots[i] is what lane i brought.
using Perform = void (*)(void* const* slots, unsigned mask);

struct Thread {
  void* stack_pointer;
  uint3 index;
  int warp, lane;
  int barrier;  // which __syncthreads() it waits at
};

struct Warp {
  unsigned live, ready, at_barrier, in_collective;
  unsigned masks[LANES];
  Perform performs[LANES];
  void* slots[LANES];
};

struct SharedArrayRecord {
  const void* tag;
  size_t offset;
};

struct Block {
  uint3 index, grid, shape;
  Thread threads[MAX_THREADS];
  Warp warps[MAX_WARPS];
  int count, warp_count, live, waiting;
  unsigned ready_warps;
  Thread* current;
  void* main_stack_pointer;
  void (*kernel)(const char*);
  const char* arguments;
  Order order = Order::FORWARD;
  unsigned char poison = 0xFF;
  uint32_t random;
  SharedArrayRecord shared[MAX_SHARED_ARRAYS];
  int shared_count;
  size_t shared_used;
  char* dynamic_shared;
  size_t dynamic_bytes;
  char error[512];
  bool failed;
};

// Each emulated image has its own; `inline` would let dlopen share it between images.
static Block block;
alignas(128) static char static_shared[STATIC_SHARED_BYTES];

inline uint32_t next_random() {
  block.random = block.random * 1664525u + 1013904223u;
  return block.random >> 8;
}

// Ends the launch: the message names block and thread, and no fiber runs again.
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
  va_list values;
  va_start(values, format);
  const int used = vsnprintf(block.error, sizeof block.error, format, values);
  va_end(values);
  const uint3 b = block.index, t = block.current ? block.current->index : uint3{0, 0, 0};
  if (used >= 0 && used < static_cast<int>(sizeof block.error))
    snprintf(block.error + used, sizeof block.error - used, " (block %u,%u,%u thread %u,%u,%u)", b.x, b.y, b.z, t.x, t.y, t.z);
  block.failed = true;
  void* abandoned;
  switch_stack(&abandoned, block.main_stack_pointer);
  __builtin_unreachable();
}

inline int pick_bit(unsigned bits) {
  switch (block.order) {
    case Order::FORWARD:
      return __builtin_ctz(bits);
    case Order::REVERSE:
      return 31 - __builtin_clz(bits);
    default: {
      int skip = static_cast<int>(next_random() % static_cast<unsigned>(__builtin_popcount(bits)));
      for (; skip; --skip) bits &= bits - 1;
      return __builtin_ctz(bits);
    }
  }
}

[[noreturn]] inline void fail_with_deadlock() {
  int at_barrier = 0, in_collective = 0;
  for (int i = 0; i < block.warp_count; ++i) {
    at_barrier += __builtin_popcount(block.warps[i].at_barrier);
    in_collective += __builtin_popcount(block.warps[i].in_collective);
  }
  fail("deadlock: %d threads wait at __syncthreads, %d in a warp operation that other lanes never reach, %d returned",
       at_barrier, in_collective, block.count - block.live);
}

// Runs another ready thread; returns when the calling one is ready and its turn comes.
inline void yield() {
  Thread* const mine = block.current;
  if (!block.ready_warps) {
    if (block.live) fail_with_deadlock();
    switch_stack(&mine->stack_pointer, block.main_stack_pointer);
  }
  // The running warp goes on as long as it can, except in the shuffled order, which mixes all warps.
  const bool stay = block.order != Order::SHUFFLED && (block.ready_warps >> mine->warp & 1);
  Warp& warp = block.warps[stay ? mine->warp : pick_bit(block.ready_warps)];
  const int lane = pick_bit(warp.ready);
  warp.ready &= ~(1u << lane);
  const int at = static_cast<int>(&warp - block.warps);
  if (!warp.ready) block.ready_warps &= ~(1u << at);
  Thread* const next = &block.threads[at * LANES + lane];
  block.current = next;
  if (next != mine) switch_stack(&mine->stack_pointer, next->stack_pointer);
}

inline void make_ready(int warp, unsigned lanes) {
  block.warps[warp].ready |= lanes;
  if (lanes) block.ready_warps |= 1u << warp;
}

inline void release_barrier_if_complete() {
  if (!block.waiting || block.waiting != block.live) return;
  int place = -1;
  for (int i = 0; i < block.count; ++i) {
    if (!(block.warps[i / LANES].at_barrier >> (i % LANES) & 1)) continue;
    if (place >= 0 && place != block.threads[i].barrier) fail("threads of one block wait at different __syncthreads");
    place = block.threads[i].barrier;
  }
  block.waiting = 0;
  for (int i = 0; i < block.warp_count; ++i) {
    const unsigned lanes = block.warps[i].at_barrier;
    block.warps[i].at_barrier = 0;
    make_ready(i, lanes);
  }
}

// __syncthreads(): `place` tells one in the source from another.
inline void barrier(int place) {
  Thread& mine = *block.current;
  mine.barrier = place;
  block.warps[mine.warp].at_barrier |= 1u << mine.lane;
  ++block.waiting;
  release_barrier_if_complete();
  yield();
}

// Meets the lanes of `mask`; the last of them performs the operation on what each brought.
inline void collective(unsigned mask, void* brought, Perform perform) {
  Thread& mine = *block.current;
  Warp& warp = block.warps[mine.warp];
  if (!(mask >> mine.lane & 1)) fail("lane %d calls a warp operation whose mask 0x%08x lacks it", mine.lane, mask);
  if (mask & ~warp.live) fail("a warp operation waits for lanes 0x%08x, which returned or do not exist", mask & ~warp.live);
  warp.masks[mine.lane] = mask;
  warp.performs[mine.lane] = perform;
  warp.slots[mine.lane] = brought;
  warp.in_collective |= 1u << mine.lane;
  if ((warp.in_collective & mask) != mask) {
    yield();
    return;
  }
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (warp.masks[lane] != mask) fail("lanes of one warp operation give different masks: 0x%08x and 0x%08x", mask, warp.masks[lane]);
    if (warp.performs[lane] != perform) fail("lanes of one warp wait in different warp operations");
  }
  perform(warp.slots, mask);
  warp.in_collective &= ~mask;
  // All lanes queue, this one too: whoever continues first is a matter of the order.
  make_ready(mine.warp, mask);
  yield();
}

inline void thread_entry() {
  block.kernel(block.arguments);
  Thread& mine = *block.current;
  Warp& warp = block.warps[mine.warp];
  warp.live &= ~(1u << mine.lane);
  --block.live;
  for (unsigned rest = warp.in_collective; rest; rest &= rest - 1)
    if (warp.masks[__builtin_ctz(rest)] >> mine.lane & 1) fail("a lane returned while its warp waits for it in a warp operation");
  release_barrier_if_complete();
  yield();
  __builtin_unreachable();
}

inline void prepare_threads(char* stacks) {
  block.live = block.count;
  block.waiting = 0;
  block.ready_warps = 0;
  block.shared_count = 0;
  block.shared_used = 0;
  if (block.dynamic_bytes) std::memset(block.dynamic_shared, block.poison, block.dynamic_bytes);
  for (int i = 0; i < block.warp_count; ++i) {
    const int lanes = block.count - i * LANES;
    const unsigned live = lanes >= LANES ? FULL_WARP : (1u << lanes) - 1;
    block.warps[i] = Warp{};
    block.warps[i].live = live;
    make_ready(i, live);
  }
  for (int i = 0; i < block.count; ++i) {
    const unsigned n = static_cast<unsigned>(i), wide = block.shape.x, deep = block.shape.x * block.shape.y;
    // Tops of the stacks are staggered: at equal offsets they would all fall into the same few sets of the cache.
    char* top = stacks + (i + 1) * (STACK_BYTES + PAGE_BYTES) - (i % 64) * 192;
    block.threads[i] = Thread{fresh_context(top, thread_entry), {n % wide, n % deep / wide, n / deep}, i / LANES, i % LANES, 0};
  }
}

// Runs one block to its end, or to its first error.
inline void run_block(uint3 index, char* stacks) {
  block.index = index;
  prepare_threads(stacks);
  const int warp = pick_bit(block.ready_warps), lane = pick_bit(block.warps[warp].ready);
  block.warps[warp].ready &= ~(1u << lane);
  if (!block.warps[warp].ready) block.ready_warps &= ~(1u << warp);
  block.current = &block.threads[warp * LANES + lane];
  switch_stack(&block.main_stack_pointer, block.current->stack_pointer);
  block.current = nullptr;
}

// A __shared__ array: the same memory for all threads that come to its declaration, poisoned when the first one does.
inline char* shared_memory(const void* tag, size_t bytes, size_t alignment) {
  for (int i = 0; i < block.shared_count; ++i)
    if (block.shared[i].tag == tag) return static_shared + block.shared[i].offset;
  const size_t offset = (block.shared_used + alignment - 1) / alignment * alignment;
  if (offset + bytes > STATIC_SHARED_BYTES || block.shared_count == MAX_SHARED_ARRAYS)
    fail("static shared memory: %zu bytes do not fit behind %zu of %d", bytes, offset, STATIC_SHARED_BYTES);
  block.shared[block.shared_count++] = {tag, offset};
  block.shared_used = offset + bytes;
  std::memset(static_shared + offset, block.poison, bytes);
  return static_shared + offset;
}

// A pointer into shared memory that knows its length.
template <class T>
struct SharedArray {
  T* values;
  size_t count;
  const char* name;

  template <class I>
  T& operator[](I index) const {
    if (static_cast<size_t>(index) >= count)
      fail("shared array %s of %zu is indexed at %lld", name, count, static_cast<long long>(index));
    return values[index];
  }
  operator T*() const { return values; }
};

template <class T>
SharedArray<T> shared_array(const void* tag, size_t count, const char* name) {
  return {reinterpret_cast<T*>(shared_memory(tag, count * sizeof(T), alignof(T) < 16 ? 16 : alignof(T))), count, name};
}

template <class T>
SharedArray<T> dynamic_shared(const char* name) {
  return {reinterpret_cast<T*>(block.dynamic_shared), block.dynamic_bytes / sizeof(T), name};
}

}  // namespace emulator
