#include "cuda.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "errors.hpp"

namespace edgereel_runtime {
namespace {

constexpr std::size_t kLeastStaging = 1 << 16;  // bytes

cudaEvent_t new_event() {
  cudaEvent_t event = nullptr;
  cuda_done(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
            "create an event");
  return event;
}

int attribute(cudaDeviceAttr which) {
  int value = 0;
  cuda_done(cudaDeviceGetAttribute(&value, which, 0), "tell what the GPU can do");
  return value;
}

void check_gpu() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return;
  fail(Kind::kUnavailable,
       "no CUDA GPU answers here; provider trt needs one and NVIDIA's driver. Install the driver, "
       "or choose the provider cpu.");
}

}  // namespace

void cuda_done(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  fail(Kind::kEngine, "CUDA failed to " + what + " (" + cudaGetErrorName(error) +
                          "); expected a GPU with enough free memory. Use a smaller size or chunk, "
                          "or close other programs that use the GPU.");
}

CudaStream::CudaStream() {
  check_gpu();
  cuda_done(cudaSetDevice(0), "use GPU 0");
  if (attribute(cudaDevAttrMemoryPoolsSupported) != 0) {
    std::uint64_t all = UINT64_MAX;  // what is freed stays for the next
    cuda_done(cudaDeviceGetDefaultMemPool(&pool_, 0), "find its memory pool");
    cuda_done(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &all),
              "keep memory that was freed");
  }
  cuda_done(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "create a stream");
}

CudaStream::~CudaStream() {
  cudaStreamSynchronize(handle);
  cudaStreamDestroy(handle);
}

void* CudaStream::allocate(std::size_t bytes) {
  void* memory = nullptr;
  bytes = std::max<std::size_t>(bytes, 1);
  const cudaError_t error =
      pool_ != nullptr ? cudaMallocAsync(&memory, bytes, handle) : cudaMalloc(&memory, bytes);
  if (error != cudaSuccess) cudaGetLastError();  // or the next call would fail with it
  cuda_done(error, "allocate " + std::to_string(bytes) + " bytes");
  return memory;
}

void CudaStream::release(void* memory) noexcept {
  if (pool_ != nullptr) {
    cudaFreeAsync(memory, handle);
  } else {
    cudaFree(memory);  // waits for the device by itself
  }
}

std::int64_t CudaStream::free_bytes() const {
  std::size_t free = 0, all = 0;
  cuda_done(cudaMemGetInfo(&free, &all), "tell its free memory");
  std::uint64_t reserved = 0, used = 0;
  if (pool_ != nullptr) {
    cuda_done(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved),
              "tell its free memory");
    cuda_done(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used),
              "tell its free memory");
  }
  return static_cast<std::int64_t>(free + reserved - used);
}

CudaMemory::CudaMemory() : stream_(std::make_shared<CudaStream>()) {
  cudaDeviceProp properties{};
  cuda_done(cudaGetDeviceProperties(&properties, 0), "tell its name");
  capability_ = std::to_string(attribute(cudaDevAttrComputeCapabilityMajor)) + "." +
                std::to_string(attribute(cudaDevAttrComputeCapabilityMinor));
  device_ = std::string(properties.name) + " (compute capability " + capability_ + ")";
  for (cudaEvent_t& event : calls_) event = new_event();
}

CudaMemory::~CudaMemory() {
  cudaStreamSynchronize(stream());
  for (cudaEvent_t event : calls_) cudaEventDestroy(event);
  drop_staging();
}

void CudaMemory::drop_staging() {
  for (const Staging& one : staging_) {
    cudaEventDestroy(one.read);
    cudaFreeHost(one.memory);
  }
  staging_.clear();
}

std::shared_ptr<char> CudaMemory::block(std::size_t bytes) {
  char* memory = static_cast<char*>(stream_->allocate(bytes));
  return {memory, [stream = stream_](char* owned) { stream->release(owned); }};
}

Buffer CudaMemory::empty(DType dtype, const Dims& dims) {
  return Buffer(Array(dtype, dims, block(product(dims) * item_bytes(dtype))));
}

CudaMemory::Staging& CudaMemory::staging(std::size_t bytes) {
  for (Staging& one : staging_) {
    if (one.bytes >= bytes && cudaEventQuery(one.read) == cudaSuccess) return one;
  }
  Staging made;
  made.bytes = std::max(bytes, kLeastStaging);
  made.read = new_event();
  const cudaError_t error = cudaMallocHost(&made.memory, made.bytes);
  if (error != cudaSuccess) cudaEventDestroy(made.read);
  cuda_done(error, "pin " + std::to_string(made.bytes) + " bytes of host memory");
  return staging_.emplace_back(made);
}

void CudaMemory::copy(const Array& source, const Buffer& target) {
  if (source.bytes() == 0) return;
  const Staging& from = staging(source.bytes());
  std::memcpy(from.memory, source.raw(), source.bytes());
  cuda_done(cudaMemcpyAsync(target.memory().raw(), from.memory, source.bytes(),
                            cudaMemcpyHostToDevice, stream()),
            "copy to the device");
  cuda_done(cudaEventRecord(from.read, stream()), "record an event");
}

Array CudaMemory::get(const Buffer& buffer) {
  Array array(buffer.dtype(), buffer.dims());
  if (array.bytes() == 0) return array;
  cuda_done(cudaMemcpyAsync(array.raw(), buffer.memory().raw(), array.bytes(),
                            cudaMemcpyDeviceToHost, stream()),
            "copy from the device");
  finish();
  drop_staging();  // nothing reads it any more
  return array;
}

void CudaMemory::copy(const Buffer& source, const Buffer& target) {
  if (source.bytes() == 0) return;
  cuda_done(cudaMemcpyAsync(target.memory().raw(), source.memory().raw(), source.bytes(),
                            cudaMemcpyDeviceToDevice, stream()),
            "copy on the device");
}

void CudaMemory::pace() {
  cuda_done(cudaEventRecord(calls_[count_ % 3], stream()), "record an event");
  if (count_ >= 2) cuda_done(cudaEventSynchronize(calls_[(count_ - 2) % 3]), "finish a call");
  ++count_;
}

void CudaMemory::finish() { cuda_done(cudaStreamSynchronize(stream()), "finish the queued work"); }

}  // namespace edgereel_runtime
