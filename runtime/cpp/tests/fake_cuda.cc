#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>

#include "fake_gpu.hpp"

using Work = std::function<void()>;

struct CUevent_st {
  std::size_t place = 0;  // how much was queued in front of it
};
struct CUgraph_st {
  std::vector<Work> works;
};
struct CUgraphExec_st {
  std::vector<Work> works;
};

namespace fake {
namespace {

constexpr std::uintptr_t kDevice = std::uintptr_t(1) << 62;
std::deque<Work> waiting;
std::unique_ptr<std::vector<Work>> being_recorded;

bool is_device(const void* address) {
  return (reinterpret_cast<std::uintptr_t>(address) & kDevice) != 0;
}

char* behind(const void* address) {
  return is_device(address) ? host(const_cast<void*>(address))
                            : static_cast<char*>(const_cast<void*>(address));
}

void work_until(std::size_t place) {
  while (machine().done < place) {
    const Work work = std::move(waiting.front());
    waiting.pop_front();
    work();
    ++machine().done;
  }
}

cudaError_t allocate(void** memory, std::size_t bytes) {
  if (recording()) return cudaErrorStreamCaptureUnsupported;
  if (bytes > machine().most_bytes) return cudaErrorMemoryAllocation;
  void* made = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  *memory = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(made) | kDevice);
  ++machine().blocks;
  return cudaSuccess;
}

void give_back(void* memory) {
  std::free(host(memory));
  --machine().blocks;
}

}  // namespace

Machine& machine() {
  static Machine found;
  return found;
}

bool recording() { return being_recorded != nullptr; }

void queue(Work work) {
  if (being_recorded) return being_recorded->push_back(std::move(work));
  waiting.push_back(std::move(work));
  ++machine().queued;
}

char* host(void* device) {
  if (!is_device(device)) std::abort();  // an address of the host where one of the GPU belongs
  return reinterpret_cast<char*>(reinterpret_cast<std::uintptr_t>(device) & ~kDevice);
}

}  // namespace fake

using fake::machine;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = machine().gpu ? 1 : 0;
  return machine().gpu ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorUnknown";
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const std::map<cudaDeviceAttr, int> known = {
      {cudaDevAttrMemoryPoolsSupported, machine().pools ? 1 : 0},
      {cudaDevAttrComputeCapabilityMajor, 8},
      {cudaDevAttrComputeCapabilityMinor, 9}};
  *value = known.at(which);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "Fake GPU");
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* all) {
  *free = *all = machine().free_bytes;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = reinterpret_cast<cudaMemPool_t>(78);
  return cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr which, void* value) {
  const bool reserved = which == cudaMemPoolAttrReservedMemCurrent;
  *static_cast<std::uint64_t*>(value) = reserved ? 500 : 100;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMalloc(void** memory, std::size_t bytes) { return fake::allocate(memory, bytes); }
cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t) {
  return machine().pools ? fake::allocate(memory, bytes) : cudaErrorNotSupported;
}
cudaError_t cudaFree(void* memory) {
  fake::work_until(machine().queued);
  fake::give_back(memory);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
  fake::queue([memory] { fake::give_back(memory); });
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  *memory = std::malloc(bytes);
  ++machine().pinned;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  std::free(memory);
  --machine().pinned;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  const bool fits = fake::is_device(to) == (kind != cudaMemcpyDeviceToHost) &&
                    fake::is_device(from) == (kind != cudaMemcpyHostToDevice);
  if (!fits) return cudaErrorInvalidValue;
  if (kind == cudaMemcpyDeviceToHost) machine().fetched += bytes;
  fake::queue([=] { std::memcpy(fake::behind(to), fake::behind(from), bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t pitch,
                              std::size_t width, std::size_t rows, cudaMemcpyKind kind,
                              cudaStream_t) {
  if (kind != cudaMemcpyDeviceToDevice || width > pitch || width > to_pitch) {
    return cudaErrorInvalidValue;
  }
  char* const target = fake::host(to);
  char* const source = fake::host(const_cast<void*>(from));
  fake::queue([=] {
    for (std::size_t row = 0; row < rows; ++row) {
      std::memcpy(target + row * to_pitch, source + row * pitch, width);
    }
  });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
  *stream = reinterpret_cast<cudaStream_t>(77);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  ++machine().waits;
  fake::work_until(machine().queued);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->place = machine().queued;
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return machine().done >= event->place ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  fake::work_until(event->place);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode mode) {
  if (mode != cudaStreamCaptureModeThreadLocal) return cudaErrorInvalidValue;
  fake::being_recorded = std::make_unique<std::vector<Work>>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  const auto works = std::move(fake::being_recorded);
  *graph = nullptr;
  if (!machine().captures) return cudaErrorStreamCaptureInvalidated;
  *graph = new CUgraph_st{*works};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* made, cudaGraph_t graph,
                                          unsigned long long) {
  *made = new CUgraphExec_st{graph->works};
  ++machine().recorded;
  ++machine().graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  --machine().graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  ++machine().played;
  for (const Work& work : graph->works) fake::queue(work);
  return cudaSuccess;
}

}  // extern "C"
