// A GPU in the memory of this process, for tests: CUDA's and TensorRT's functions that the runtime
// calls, and what was asked of them.
//
// Device addresses are no addresses of the host: what uses one without CUDA ends the program. Work
// is done when something waits for it and not before, so that what must live until then has to.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "array.hpp"

namespace fake {

struct Machine {
  bool gpu = true, pools = true, captures = true;
  std::size_t most_bytes = std::size_t(1) << 30;  // of an allocation
  std::size_t free_bytes = std::size_t(1) << 32;  // as it says

  std::size_t waits = 0;     // for the whole stream
  std::size_t blocks = 0;    // of device memory
  std::size_t pinned = 0;    // blocks of host memory
  std::size_t recorded = 0;  // graphs
  std::size_t played = 0;
  std::size_t graphs = 0;        // that are there
  std::vector<std::string> log;  // what contexts were told

  std::size_t kernels = 0;           // launched
  std::size_t fetched = 0;           // bytes copied to the host
  std::size_t queued = 0, done = 0;  // pieces of work
};

Machine& machine();

void queue(std::function<void()> work);  // or records it
bool recording();

char* host(void* device);  // what is behind a device address

// An input or output of a graph, in host memory.
struct Tensor {
  std::string name;
  edgereel_runtime::DType dtype;
  edgereel_runtime::Dims dims;
  char* memory;
};

// What every fake graph computes: each number of an output is a mixture of numbers of all inputs.
void compute(std::vector<Tensor> inputs, const std::vector<Tensor>& outputs);

}  // namespace fake
