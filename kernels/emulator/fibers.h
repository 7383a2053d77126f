// Fibers: one stack for each CUDA thread of a block, switched by hand.
//
// A switch saves the callee-saved registers of the System V x86-64 ABI and changes the stack pointer: about 3 ns, where
// swapcontext() makes a system call each time. Every stack ends at a page that cannot be touched.
#pragma once

#if !defined(__x86_64__)
#error "the emulator switches stacks by hand and knows x86-64 only"
#endif

#include <cstddef>
#include <cstdint>
#include <sys/mman.h>

namespace emulator {

constexpr size_t STACK_BYTES = 64 << 10;
constexpr size_t PAGE_BYTES = 4096;

// Saves the running context to *saved and continues the one that `stack_pointer` belongs to.
__attribute__((naked, noinline)) inline void switch_stack(void** /*saved*/, void* /*stack_pointer*/) {
  __asm__ volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

// A context that enters `entry` when it is first switched to; `entry` must not return.
inline void* fresh_context(char* stack_top, void (*entry)()) {
  void** stack = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack_top) & ~uintptr_t{15});
  *--stack = nullptr;  // the ABI wants 16n + 8 at the entry of a function
  *--stack = reinterpret_cast<void*>(entry);
  for (int saved_register = 0; saved_register < 6; ++saved_register) *--stack = nullptr;
  return stack;
}

// Stacks for `count` fibers, the i-th from pool + i * (STACK_BYTES + PAGE_BYTES), its guard page first; pool is null on
// failure. Unmapped with the image: a process may have 65,530 mappings, two of which each stack takes.
struct Stacks {
  char* pool = nullptr;
  size_t bytes = 0;

  explicit Stacks(size_t count) {
    const size_t stride = STACK_BYTES + PAGE_BYTES;
    bytes = count * stride;
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return;
    pool = static_cast<char*>(mapped);
    for (size_t i = 0; i < count; ++i) mprotect(pool + i * stride, PAGE_BYTES, PROT_NONE);
  }
  Stacks(const Stacks&) = delete;
  ~Stacks() {
    if (pool) munmap(pool, bytes);
  }
};

}  // namespace emulator
