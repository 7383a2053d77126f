// Device memory for tests: every allocation lies alone, filled with a poison, and ends at a page that cannot be touched.
//
// Reading or writing past the end faults at once, and so does most of what strays further, because allocations lie a
// gigabyte apart. What was written before the start is found when the allocation is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <sys/mman.h>

namespace emulator {

constexpr size_t GUARD_BYTES = 4096;
constexpr size_t ALIGNMENT = 16;  // the widest vector load; larger would leave bytes unguarded behind the end
constexpr unsigned char CANARY = 0xC5;

struct GuardedHeader {
  size_t mapped, size;
};

// `size` bytes of value `poison`; null where the machine has no memory for it.
inline void* guarded_allocate(size_t size, unsigned char poison) {
  static uintptr_t hint = uintptr_t{1} << 44;
  const size_t padded = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  const size_t usable = (padded + sizeof(GuardedHeader) + GUARD_BYTES - 1) / GUARD_BYTES * GUARD_BYTES;
  const size_t mapped = usable + 2 * GUARD_BYTES;
  void* place = mmap(reinterpret_cast<void*>(hint), mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (place == MAP_FAILED) return nullptr;
  hint += (mapped / (size_t{1} << 30) + 1) << 30;
  char* base = static_cast<char*>(place) + GUARD_BYTES;
  mprotect(place, GUARD_BYTES, PROT_NONE);
  mprotect(base + usable, GUARD_BYTES, PROT_NONE);
  const GuardedHeader header{mapped, size};
  std::memcpy(base, &header, sizeof header);
  char* memory = base + usable - padded;
  std::memset(base + sizeof header, CANARY, memory - base - sizeof header);
  std::memset(memory, poison, size);
  std::memset(memory + size, CANARY, padded - size);
  return memory;
}

inline char* guarded_base(void* memory, size_t size) {
  const size_t padded = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  const size_t usable = (padded + sizeof(GuardedHeader) + GUARD_BYTES - 1) / GUARD_BYTES * GUARD_BYTES;
  return static_cast<char*>(memory) + padded - usable;
}

// Whether nothing was written in front of the allocation, or to the few bytes behind it that alignment leaves.
inline bool guarded_intact(void* memory, size_t size) {
  const char* base = guarded_base(memory, size);
  GuardedHeader header;
  std::memcpy(&header, base, sizeof header);
  if (header.size != size) return false;
  const auto* bytes = reinterpret_cast<const unsigned char*>(base) + sizeof header;
  for (; bytes < memory; ++bytes)
    if (*bytes != CANARY) return false;
  const auto* behind = static_cast<const unsigned char*>(memory) + size;
  for (; reinterpret_cast<uintptr_t>(behind) % ALIGNMENT; ++behind)
    if (*behind != CANARY) return false;
  return true;
}

inline void guarded_free(void* memory, size_t size) {
  const char* base = guarded_base(memory, size);
  GuardedHeader header;
  std::memcpy(&header, base, sizeof header);
  munmap(const_cast<char*>(base) - GUARD_BYTES, header.mapped);
}

}  // namespace emulator
