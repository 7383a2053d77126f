// A launch: arguments unpacked as the driver packs them, all blocks run, faults of the machine turned into messages.
//
// Each image (one .cu file) exports `emulated_<kernel>`, and the C functions at the end of this file.
#pragma once

#include <csetjmp>
#include <csignal>
#include <dlfcn.h>
#include <numeric>
#include <optional>
#include <tuple>
#include <type_traits>
#include <ucontext.h>
#include <vector>

#include "block.h"
#include "guarded_memory.h"

namespace emulator {

static sigjmp_buf fault_return;

// Kernels that stray, divide by zero, or trap (as a UBSan build does) end the launch, not the process.
inline void on_fault(int number, siginfo_t* info, void* context) {
  const auto place = static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  Dl_info image{};
  dladdr(reinterpret_cast<void*>(place), &image);
  const auto offset = static_cast<unsigned long long>(place) - reinterpret_cast<unsigned long long>(image.dli_fbase);
  const uint3 b = block.index, t = block.current ? block.current->index : uint3{0, 0, 0};
  const char* what = number == SIGILL    ? "undefined behaviour trapped"
                     : number == SIGFPE  ? "integer division by zero"
                     : info->si_addr     ? "access out of bounds"
                                         : "misaligned access, or address beyond the address space";
  snprintf(block.error, sizeof block.error, "%s: address %p, image offset 0x%llx (block %u,%u,%u thread %u,%u,%u)", what,
           number == SIGSEGV || number == SIGBUS ? info->si_addr : nullptr, offset, b.x, b.y, b.z, t.x, t.y, t.z);
  block.failed = true;
  siglongjmp(fault_return, 1);
}

constexpr int FAULTS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

// Puts the handlers in place, with a stack of their own (a fiber's may be the one that overflowed), and takes them away.
class FaultHandlers {
 public:
  FaultHandlers() : stack_(64 << 10) {
    stack_t alternate{};
    alternate.ss_sp = stack_.data();
    alternate.ss_size = stack_.size();
    sigaltstack(&alternate, &former_stack_);
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (size_t i = 0; i < std::size(FAULTS); ++i) sigaction(FAULTS[i], &action, &former_[i]);
  }
  ~FaultHandlers() {
    for (size_t i = 0; i < std::size(FAULTS); ++i) sigaction(FAULTS[i], &former_[i], nullptr);
    sigaltstack(&former_stack_, nullptr);
  }

 private:
  std::vector<char> stack_;
  stack_t former_stack_{};
  struct sigaction former_[std::size(FAULTS)];
};

inline std::vector<unsigned> block_order(unsigned count) {
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0u);
  if (block.order == Order::REVERSE) std::reverse(order.begin(), order.end());
  if (block.order == Order::SHUFFLED)
    for (unsigned i = count; i > 1; --i) std::swap(order[i - 1], order[next_random() % i]);
  return order;
}

inline void run_grid(char* stacks) {
  const uint3 grid = block.grid;
  for (const unsigned i : block_order(grid.x * grid.y * grid.z)) {
    run_block({i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y}, stacks);
    if (block.failed) return;
  }
}

// Returns whether it ran; otherwise block.error says why not.
inline bool launch(void (*kernel)(const char*), uint3 grid, uint3 shape, size_t dynamic_bytes, const char* arguments) {
  static std::optional<Stacks> stacks;  // as many as the largest block so far needs
  static size_t stack_count = 0;
  static std::vector<char> dynamic;
  const size_t count = size_t{shape.x} * shape.y * shape.z;
  block.failed = false;
  block.error[0] = 0;
  block.current = nullptr;
  block.index = {0, 0, 0};
  if (count < 1 || count > MAX_THREADS || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535) {
    snprintf(block.error, sizeof block.error, "grid %u,%u,%u of blocks of %zu threads", grid.x, grid.y, grid.z, count);
    return false;
  }
  if (count > stack_count) {
    stacks.emplace(count);
    stack_count = stacks->pool ? count : 0;
  }
  if (!stacks->pool) {
    snprintf(block.error, sizeof block.error, "no memory for the stacks of %zu threads", count);
    return false;
  }
  if (dynamic.size() < dynamic_bytes + 16) dynamic.resize(dynamic_bytes + 16);
  void* start = dynamic.data();
  size_t space = dynamic.size();
  block.dynamic_shared = static_cast<char*>(std::align(16, dynamic_bytes, start, space));
  block.dynamic_bytes = dynamic_bytes;
  block.grid = grid;
  block.shape = shape;
  block.count = static_cast<int>(count);
  block.warp_count = (block.count + LANES - 1) / LANES;
  block.kernel = kernel;
  block.arguments = arguments;
  block.random = 12345;
  FaultHandlers handlers;
  if (!sigsetjmp(fault_return, 1)) run_grid(stacks->pool);
  block.current = nullptr;
  return !block.failed;
}

// Calls `kernel` with arguments from a buffer in which each lies at its natural alignment, as cuLaunchKernel takes them.
template <class... Arguments>
void call(void (*kernel)(Arguments...), const char* buffer) {
  size_t offset = 0;
  const auto take = [&](auto* type) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    offset = (offset + alignof(T) - 1) / alignof(T) * alignof(T);
    T value;
    std::memcpy(static_cast<void*>(&value), buffer + offset, sizeof value);
    offset += sizeof value;
    return value;
  };
  std::tuple<std::remove_const_t<Arguments>...> values{take(static_cast<Arguments*>(nullptr))...};
  std::apply(kernel, values);
}

}  // namespace emulator

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))
#define EMULATED_KERNEL(name) \
  EMULATOR_EXPORT void emulated_##name(const char* arguments) { emulator::call(name, arguments); }

// Order: 0 forward, 1 reverse, 2 shuffled; poison: the byte that shared memory is filled with before a block starts.
EMULATOR_EXPORT void emulator_schedule(int order, int poison) {
  emulator::block.order = static_cast<emulator::Order>(order);
  emulator::block.poison = static_cast<unsigned char>(poison);
}
// 0, or 1 and a message in emulator_error(). Not for two threads at once.
EMULATOR_EXPORT int emulator_launch(void (*kernel)(const char*), unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                    unsigned block_x, unsigned block_y, unsigned block_z, size_t shared_bytes,
                                    const char* arguments) {
  return !emulator::launch(kernel, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, arguments);
}
EMULATOR_EXPORT const char* emulator_error() { return emulator::block.error; }
EMULATOR_EXPORT void* emulator_allocate(size_t size, int poison) {
  return emulator::guarded_allocate(size, static_cast<unsigned char>(poison));
}
EMULATOR_EXPORT int emulator_intact(void* memory, size_t size) { return emulator::guarded_intact(memory, size); }
EMULATOR_EXPORT void emulator_free(void* memory, size_t size) { emulator::guarded_free(memory, size); }
