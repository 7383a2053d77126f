// A libcuda.so.1 for tests: the part of the CUDA driver that PyCUDA and our graphs use, over host memory.
//
// An "image" is the bytes of a shared object that holds emulated kernels (launch.h); a device pointer is a host pointer
// to guarded, poisoned memory. What is queued on a stream waits there until somebody synchronises, as on a device: a
// missing wait shows. A kernel that fails leaves every later call failing, as on a device.
//
// Environment: FAKE_CUDA_MEMORY, bytes of the device (8 GB); FAKE_CUDA_NO_CAPTURE, refuse to capture graphs;
// FAKE_CUDA_NO_EARLY, refuse launches that may begin early.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

#include "guarded_memory.h"

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

enum Status {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NOT_FOUND = 500,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901,
};

constexpr int BEGINS_EARLY = 6;  // CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION

using Address = uint64_t;
using Work = std::function<Status()>;

struct Stream {
  bool non_blocking = false, capturing = false, invalidated = false;
  std::deque<Work> queue;
  std::vector<Work> recorded;
};
struct Graph {
  std::vector<Work> nodes;
};
struct Event {
  timespec time{};
  bool reached = true;
};
struct Image {
  void* library;
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, size_t, const char*);
  const char* (*error)();
};
struct Function {
  Image* image;
  void* kernel;
  std::string name;
  size_t dynamic_limit = 48 << 10;
};

std::recursive_mutex one_at_a_time;
Status failure = SUCCESS;  // sticks
std::string failure_text = "unspecified launch failure";
Stream null_stream;
std::set<Stream*> streams;
std::map<Address, size_t> allocations;
std::set<void*> host_allocations, graphs, executables, events, images;
size_t used_bytes = 0;
long launches = 0, early = 0, replays = 0, retained = 0;
int primary_context;
thread_local std::vector<void*> contexts;

size_t device_bytes() {
  const char* bytes = getenv("FAKE_CUDA_MEMORY");
  return bytes ? strtoull(bytes, nullptr, 10) : size_t{8} << 30;
}

Stream& stream_of(void* handle) {
  const bool null = reinterpret_cast<uintptr_t>(handle) <= 2;  // 1 and 2 are names of the null stream
  return null ? null_stream : *static_cast<Stream*>(handle);
}

Status fail(const std::string& text) {
  failure_text = text;
  return failure = LAUNCH_FAILED;
}

Status run_next(Stream& stream) {
  const Work work = std::move(stream.queue.front());
  stream.queue.pop_front();
  if (const Status status = work()) failure = status;
  return failure;
}

Status drain(Stream& stream) {
  while (!stream.queue.empty() && !failure) run_next(stream);
  return failure;
}

Status drain_all() {
  drain(null_stream);
  for (Stream* stream : streams) drain(*stream);
  return failure;
}

Status submit(void* handle, Work work) {
  Stream& stream = stream_of(handle);
  if (stream.capturing)
    stream.recorded.push_back(std::move(work));
  else
    stream.queue.push_back(std::move(work));
  return SUCCESS;
}

// Calls that name no stream wait for all streams but those that were made non-blocking.
Status run_now(const Work& work) {
  for (Stream* stream : streams)
    if (!stream->non_blocking) drain(*stream);
  drain(null_stream);
  return failure ? failure : work();
}

Work copy(void* target, const void* source, size_t size) {
  return [=] {
    std::memcpy(target, source, size);
    return SUCCESS;
  };
}

void* pointer(Address address) { return reinterpret_cast<void*>(address); }

}  // namespace

#define ENTER                                               \
  const std::lock_guard<std::recursive_mutex> lock(one_at_a_time); \
  if (failure) return failure
#define ENTER_IN_CONTEXT \
  ENTER;                 \
  if (contexts.empty()) return INVALID_CONTEXT

// ---- driver, device
API cuInit(unsigned) { return SUCCESS; }
API cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
API cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
API cuDeviceGet(int* device, int ordinal) { return *device = 0, ordinal ? INVALID_DEVICE : SUCCESS; }
API cuDeviceGetName(char* name, int size, int) { return snprintf(name, size, "emulated device"), SUCCESS; }
API cuDeviceGetPCIBusId(char* place, int size, int) { return snprintf(place, size, "0000:01:00.0"), SUCCESS; }
API cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = device_bytes(), SUCCESS; }
API cuDeviceComputeCapability(int* major, int* minor, int) { return *major = 9, *minor = 0, SUCCESS; }
API cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 1: *value = 1024; break;     // threads of a block
    case 8: *value = 49152; break;    // shared bytes of a block
    case 10: *value = 32; break;      // threads of a warp
    case 16: *value = 2; break;       // multiprocessors
    case 75: *value = 9; break;       // compute capability
    case 76: *value = 0; break;
    case 97: *value = 232448; break;  // shared bytes of a block that asked for more
    default: return INVALID_VALUE;
  }
  return SUCCESS;
}
API cuGetErrorString(int status, const char** text) {
  static std::string failed;
  switch (status) {
    case SUCCESS: *text = "no error"; break;
    case INVALID_VALUE: *text = "invalid argument"; break;
    case OUT_OF_MEMORY: *text = "out of memory"; break;
    case INVALID_IMAGE: *text = "device kernel image is invalid"; break;
    case INVALID_CONTEXT: *text = "invalid device context"; break;
    case NOT_FOUND: *text = "named symbol not found"; break;
    case LAUNCH_FAILED: *text = (failed = failure_text).c_str(); break;
    case NOT_SUPPORTED: *text = "operation not supported"; break;
    case CAPTURE_UNSUPPORTED: *text = "operation not permitted when stream is capturing"; break;
    case CAPTURE_INVALIDATED: *text = "operation failed due to a previous error during capture"; break;
    default: *text = "unknown error";
  }
  return SUCCESS;
}

// ---- contexts
API cuDevicePrimaryCtxRetain(void** context, int) { return *context = &primary_context, ++retained, SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int) { return --retained, SUCCESS; }
API cuCtxPushCurrent_v2(void* context) { return contexts.push_back(context), SUCCESS; }
API cuCtxPopCurrent_v2(void** context) {
  if (contexts.empty()) return INVALID_CONTEXT;
  *context = contexts.back();
  contexts.pop_back();
  return SUCCESS;
}
API cuCtxGetDevice(int* device) { return *device = 0, contexts.empty() ? INVALID_CONTEXT : SUCCESS; }
API cuCtxSynchronize() {
  ENTER_IN_CONTEXT;
  return drain_all();
}

// ---- memory
API cuMemAlloc_v2(Address* address, size_t size) {
  ENTER_IN_CONTEXT;
  if (!size) return INVALID_VALUE;
  if (used_bytes + size > device_bytes()) return OUT_OF_MEMORY;
  void* memory = emulator::guarded_allocate(size, 0xFF);
  if (!memory) return OUT_OF_MEMORY;
  *address = reinterpret_cast<Address>(memory);
  allocations[*address] = size;
  used_bytes += size;
  return SUCCESS;
}
API cuMemFree_v2(Address address) {
  ENTER_IN_CONTEXT;
  drain_all();  // freeing waits for the device
  const auto found = allocations.find(address);
  if (found == allocations.end()) return INVALID_VALUE;
  if (!emulator::guarded_intact(pointer(address), found->second)) return fail("bytes around an allocation were written");
  emulator::guarded_free(pointer(address), found->second);
  used_bytes -= found->second;
  allocations.erase(found);
  return failure;
}
API cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  ENTER_IN_CONTEXT;
  *total = device_bytes();
  *free_bytes = *total - used_bytes;
  return SUCCESS;
}
API cuMemHostAlloc(void** memory, size_t size, unsigned) {
  ENTER_IN_CONTEXT;
  *memory = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
  host_allocations.insert(*memory);
  return SUCCESS;
}
API cuMemFreeHost(void* memory) {
  ENTER_IN_CONTEXT;
  drain_all();
  host_allocations.erase(memory);
  free(memory);
  return SUCCESS;
}
API cuMemcpyHtoD_v2(Address target, const void* source, size_t size) {
  ENTER_IN_CONTEXT;
  return run_now(copy(pointer(target), source, size));
}
API cuMemcpyDtoH_v2(void* target, Address source, size_t size) {
  ENTER_IN_CONTEXT;
  return run_now(copy(target, pointer(source), size));
}
API cuMemcpyHtoDAsync_v2(Address target, const void* source, size_t size, void* stream) {
  ENTER_IN_CONTEXT;
  return submit(stream, copy(pointer(target), source, size));
}
API cuMemcpyDtoHAsync_v2(void* target, Address source, size_t size, void* stream) {
  ENTER_IN_CONTEXT;
  return submit(stream, copy(target, pointer(source), size));
}
API cuMemcpyDtoDAsync_v2(Address target, Address source, size_t size, void* stream) {
  ENTER_IN_CONTEXT;
  return submit(stream, copy(pointer(target), pointer(source), size));
}
API cuMemsetD8Async(Address target, unsigned char value, size_t count, void* stream) {
  ENTER_IN_CONTEXT;
  return submit(stream, [=] { return std::memset(pointer(target), value, count), SUCCESS; });
}

// ---- streams, events
API cuStreamCreate(void** handle, unsigned flags) {
  ENTER_IN_CONTEXT;
  auto* stream = new Stream;
  stream->non_blocking = flags & 1;
  streams.insert(stream);
  *handle = stream;
  return SUCCESS;
}
API cuStreamDestroy_v2(void* handle) {
  const std::lock_guard<std::recursive_mutex> lock(one_at_a_time);
  auto* stream = static_cast<Stream*>(handle);
  drain(*stream);
  streams.erase(stream);
  delete stream;
  return failure;
}
API cuStreamSynchronize(void* handle) {
  ENTER_IN_CONTEXT;
  Stream& stream = stream_of(handle);
  if (stream.capturing) return stream.invalidated = true, CAPTURE_UNSUPPORTED;
  return drain(stream);
}
API cuEventCreate(void** event, unsigned) {
  ENTER_IN_CONTEXT;
  events.insert(*event = new Event);
  return SUCCESS;
}
API cuEventDestroy_v2(void* event) {
  const std::lock_guard<std::recursive_mutex> lock(one_at_a_time);
  drain_all();
  events.erase(event);
  delete static_cast<Event*>(event);
  return failure;
}
API cuEventRecord(void* event, void* stream) {
  ENTER_IN_CONTEXT;
  Event* const mark = static_cast<Event*>(event);
  mark->reached = false;
  return submit(stream, [=] { return clock_gettime(CLOCK_MONOTONIC, &mark->time), mark->reached = true, SUCCESS; });
}
// What was queued behind the event is not run: who reads its results has not waited for them.
API cuEventSynchronize(void* event) {
  ENTER_IN_CONTEXT;
  drain(null_stream);
  for (Stream* stream : streams)
    while (!static_cast<Event*>(event)->reached && !stream->queue.empty() && !failure) run_next(*stream);
  return failure;
}
API cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
  ENTER_IN_CONTEXT;
  const timespec a = static_cast<Event*>(start)->time, b = static_cast<Event*>(end)->time;
  *milliseconds = static_cast<float>((b.tv_sec - a.tv_sec) * 1e3 + (b.tv_nsec - a.tv_nsec) * 1e-6);
  return SUCCESS;
}

// ---- modules, launches
API cuModuleLoadDataEx(void** module, const void* bytes, unsigned, int*, void**) {
  ENTER_IN_CONTEXT;
  const auto* elf = static_cast<const unsigned char*>(bytes);
  if (std::memcmp(elf, "\x7f" "ELF", 4)) return INVALID_IMAGE;
  uint64_t sections;
  uint16_t count, each;
  std::memcpy(&sections, elf + 40, 8);
  std::memcpy(&each, elf + 58, 2);
  std::memcpy(&count, elf + 60, 2);
  const size_t size = sections + size_t{count} * each;  // the table of sections ends the file
  // Not a file in memory: dlopen takes an equal /proc/self/fd/N for the library that it knows by this name.
  char path[] = "/tmp/fake-cuda-XXXXXX";
  const int file = mkstemp(path);
  const bool written = file >= 0 && write(file, bytes, size) == static_cast<ssize_t>(size);
  close(file);
  void* library = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  unlink(path);
  auto* image = new Image{library, nullptr, nullptr};
  if (library) {
    *reinterpret_cast<void**>(&image->launch) = dlsym(library, "emulator_launch");
    *reinterpret_cast<void**>(&image->error) = dlsym(library, "emulator_error");
  }
  if (!image->launch || !image->error) return delete image, INVALID_IMAGE;
  images.insert(*module = image);
  return SUCCESS;
}
API cuModuleLoadData(void** module, const void* bytes) { return cuModuleLoadDataEx(module, bytes, 0, nullptr, nullptr); }
API cuModuleUnload(void* module) {
  const std::lock_guard<std::recursive_mutex> lock(one_at_a_time);
  drain_all();
  images.erase(module);
  dlclose(static_cast<Image*>(module)->library);
  delete static_cast<Image*>(module);
  return failure;
}
API cuModuleGetFunction(void** function, void* module, const char* name) {
  ENTER_IN_CONTEXT;
  auto* image = static_cast<Image*>(module);
  void* kernel = dlsym(image->library, (std::string("emulated_") + name).c_str());
  if (!kernel) return NOT_FOUND;
  *function = new Function{image, kernel, name};  // lives as long as the process: functions cannot be freed
  return SUCCESS;
}
API cuFuncSetAttribute(void* function, int attribute, int value) {
  ENTER_IN_CONTEXT;
  if (attribute != 8 || value < 0 || value > 232448) return INVALID_VALUE;  // 8: dynamic shared bytes at most
  static_cast<Function*>(function)->dynamic_limit = static_cast<size_t>(value);
  return SUCCESS;
}
API cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void* stream, void** parameters, void** extra) {
  ENTER_IN_CONTEXT;
  auto* function = static_cast<Function*>(handle);
  const size_t threads = size_t{block_x} * block_y * block_z;
  if (!grid_x || !grid_y || !grid_z || grid_y > 65535 || grid_z > 65535 || !threads || threads > 1024 ||
      shared > function->dynamic_limit || parameters || !extra)
    return INVALID_VALUE;
  std::string arguments;
  for (const char* buffer = nullptr; *extra; extra += 2) {
    if (*extra == reinterpret_cast<void*>(1)) buffer = static_cast<const char*>(extra[1]);
    if (*extra == reinterpret_cast<void*>(2)) arguments.assign(buffer, *static_cast<size_t*>(extra[1]));
  }
  ++launches;
  return submit(stream, [=] {
    Image* image = function->image;
    if (!image->launch(function->kernel, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, arguments.data()))
      return SUCCESS;
    return fail("unspecified launch failure: " + function->name + ": " + image->error());
  });
}
// The start of CUlaunchConfig and of CUlaunchAttribute, as cuda.h has them.
struct LaunchConfiguration {
  unsigned grid[3], block[3], shared;
  void* stream;
  struct {
    int id, padding, value, rest[15];
  } * attributes;
  unsigned attribute_count;
};
API cuLaunchKernelEx(const LaunchConfiguration* launch, void* handle, void** parameters, void** extra) {
  ENTER_IN_CONTEXT;
  for (unsigned i = 0; i < launch->attribute_count; ++i) {
    const auto& attribute = launch->attributes[i];
    if (attribute.id != BEGINS_EARLY || attribute.value != 1 || getenv("FAKE_CUDA_NO_EARLY")) return NOT_SUPPORTED;
    ++early;
  }
  const unsigned *grid = launch->grid, *block = launch->block;
  return cuLaunchKernel(handle, grid[0], grid[1], grid[2], block[0], block[1], block[2], launch->shared, launch->stream, parameters,
                        extra);
}

// ---- graphs
API cuStreamBeginCapture_v2(void* handle, int) {
  ENTER_IN_CONTEXT;
  Stream& stream = stream_of(handle);
  if (getenv("FAKE_CUDA_NO_CAPTURE")) return NOT_SUPPORTED;
  if (&stream == &null_stream) return CAPTURE_UNSUPPORTED;
  if (stream.capturing) return INVALID_VALUE;
  stream.capturing = true;
  stream.invalidated = false;
  stream.recorded.clear();
  return SUCCESS;
}
API cuStreamEndCapture(void* handle, void** graph) {
  ENTER_IN_CONTEXT;
  Stream& stream = stream_of(handle);
  if (!stream.capturing) return INVALID_VALUE;
  stream.capturing = false;
  *graph = nullptr;
  if (stream.invalidated) return CAPTURE_INVALIDATED;
  graphs.insert(*graph = new Graph{std::move(stream.recorded)});
  return SUCCESS;
}
API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
  ENTER_IN_CONTEXT;
  executables.insert(*executable = new Graph(*static_cast<Graph*>(graph)));
  return SUCCESS;
}
API cuGraphLaunch(void* executable, void* stream) {
  ENTER_IN_CONTEXT;
  ++replays;
  for (const Work& work : static_cast<Graph*>(executable)->nodes) submit(stream, work);
  return SUCCESS;
}
API cuGraphExecDestroy(void* executable) {
  const std::lock_guard<std::recursive_mutex> lock(one_at_a_time);
  executables.erase(executable);
  delete static_cast<Graph*>(executable);
  return SUCCESS;
}
API cuGraphDestroy(void* graph) {
  const std::lock_guard<std::recursive_mutex> lock(one_at_a_time);
  graphs.erase(graph);
  delete static_cast<Graph*>(graph);
  return SUCCESS;
}

// ---- for tests: what happened, and what is still there
extern "C" __attribute__((visibility("default"))) long fake_driver_launches() { return launches; }
extern "C" __attribute__((visibility("default"))) long fake_driver_early() { return early; }
extern "C" __attribute__((visibility("default"))) long fake_driver_replays() { return replays; }
extern "C" __attribute__((visibility("default"))) long fake_driver_remains() {
  const size_t things = allocations.size() + host_allocations.size() + streams.size() + graphs.size() +
                        executables.size() + events.size() + images.size();
  return static_cast<long>(things) + retained;
}
