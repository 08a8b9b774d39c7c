// What the interpreter needs of an inference library: one of these, and engines that it loads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "array.hpp"
#include "plan_format.hpp"

namespace edgereel_runtime {

using Arrays = Named<Array>;

// One loaded graph.
class Engine {
 public:
  virtual ~Engine() = default;

  // Fills all `outputs`, made by the caller, from all `inputs` of the graph; throws Error.
  virtual void run(const Arrays& inputs, const Arrays& outputs) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // The graph in an .onnx file whose hash was checked; throws Error if it cannot be loaded or its
  // inputs and outputs are not those of `spec`.
  virtual std::unique_ptr<Engine> load(const std::string& path, const GraphSpec& spec) = 0;

  // Bytes that can still be taken; none if unknown.
  virtual std::optional<std::int64_t> free_memory() = 0;
};

}  // namespace edgereel_runtime
