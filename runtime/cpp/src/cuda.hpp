// Device memory of the first GPU and one stream, through the CUDA runtime.
//
// Everything is queued on the stream, so copies and engines run in the order they were asked for;
// only `get` waits for all of it, and `pace` for what was queued two calls ago.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "backend.hpp"

namespace edgereel_runtime {

// Throws Error where a CUDA call failed; `what` says what it was to do.
void cuda_done(cudaError_t error, const std::string& what);

// The stream, and how memory is taken in its order.
class CudaStream {
 public:
  CudaStream();  // throws Error where there is no GPU
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  void* allocate(std::size_t bytes);    // throws Error
  void release(void* memory) noexcept;  // when the work queued so far is over
  std::int64_t free_bytes() const;      // with what was given back and is kept for the next

  cudaStream_t handle = nullptr;

 private:
  cudaMemPool_t pool_ = nullptr;  // memory is taken from in the stream's order, if there is one
};

// Buffers in device memory. Memory is given back with the last view of it.
class CudaMemory {
 public:
  CudaMemory();  // throws Error
  ~CudaMemory();
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;

  Buffer empty(DType dtype, const Dims& dims);
  Buffer put(const Array& array);
  Array get(const Buffer& buffer);
  void copy(const Buffer& source, const Buffer& target);
  void copy(const Array& source, const Buffer& target);  // which may change when this returns

  // What is computed between graphs, queued but for the answer of `is_finite`: see backend.hpp.
  bool is_finite(const Buffer& buffer);
  Buffer mixed(const Buffer& x, float c_x, const Array& z, float c_z);
  Buffer cut(const Buffer& buffer, std::size_t axis, std::int64_t start, std::int64_t stop);
  void join(const Buffer& whole, const Buffer& part, std::size_t axis, std::int64_t start,
            std::int64_t done);

  std::int64_t free_bytes() const { return stream_->free_bytes(); }

  // Memory without a type; the stream gives it back with its last owner.
  std::shared_ptr<char> block(std::size_t bytes);

  // To be asked after each call: two of them stay in flight, so that the GPU is never idle and what
  // is told of progress is true within one step.
  void pace();

  void finish();  // waits for all that was queued

  cudaStream_t stream() const { return stream_->handle; }
  const std::string& capability() const { return capability_; }  // such as "8.9"
  const std::string& device() const { return device_; }          // for a sentence

 private:
  // Memory of the host that the GPU reads, and when it has.
  struct Staging {
    void* memory = nullptr;
    std::size_t bytes = 0;
    cudaEvent_t read = nullptr;
  };

  void copy_along(std::size_t axis, const std::pair<Buffer, std::int64_t>& source,
                  const std::pair<Buffer, std::int64_t>& target, std::int64_t count);
  Staging& staging(std::size_t bytes);
  void drop_staging();

  std::shared_ptr<CudaStream> stream_;
  std::vector<Staging> staging_;
  std::array<cudaEvent_t, 3> calls_{};  // the ends of the last calls, in turn
  std::size_t count_ = 0;               // of calls
  std::string device_, capability_;
};

}  // namespace edgereel_runtime
