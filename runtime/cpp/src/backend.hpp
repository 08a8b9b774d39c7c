// What the interpreter needs of an inference library: one of these, and engines that it loads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "array.hpp"
#include "plan_format.hpp"

namespace edgereel_runtime {

// Memory of a backend. It has the type and sizes of an array, and parts of axis 0 are views of it,
// but only its backend can read or write it.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(Array memory) : memory_(std::move(memory)) {}

  DType dtype() const { return memory_.dtype(); }
  const Dims& dims() const { return memory_.dims(); }
  std::size_t bytes() const { return memory_.bytes(); }

  Buffer operator[](std::int64_t index) const { return Buffer(memory_[index]); }  // axis 0 gone
  Buffer part(std::int64_t start, std::int64_t stop) const {
    return Buffer(memory_.part(start, stop));
  }

  // For backends alone.
  const Array& memory() const { return memory_; }

 private:
  Array memory_;
};

using Arrays = Named<Array>;
using Buffers = Named<Buffer>;

// One loaded graph.
class Engine {
 public:
  virtual ~Engine() = default;

  // Fills all `outputs`, made by the caller, from all `inputs` of the graph; throws Error. It may
  // return before they are filled: what is asked of the backend afterwards sees them filled.
  virtual void run(const Buffers& inputs, const Buffers& outputs) = 0;

  // Of its arithmetic: fp16, fp32 or "as exported".
  virtual std::string precision() const { return "as exported"; }
};

// What a loaded graph takes on its device, in bytes.
struct Footprint {
  std::int64_t weights = 0;
  std::int64_t activations = 0;  // while it runs, at the largest sizes it takes
};

class Backend {
 public:
  virtual ~Backend() = default;

  // The graph in an .onnx file whose hash was checked; throws Error if it cannot be loaded or its
  // inputs and outputs are not those of `spec`.
  virtual std::unique_ptr<Engine> load(const std::string& path, const GraphSpec& spec) = 0;

  // Whether a graph may be loaded in one thread while others run in another, at little cost.
  virtual bool loads_ahead() const { return false; }

  // Whether Edgereel's kernels for a CPU compute what they can.
  virtual bool has_kernels() const { return false; }

  // A buffer with the contents of `array`, which the caller must not change afterwards.
  virtual Buffer put(const Array& array) = 0;

  // The contents of a buffer, not to be changed.
  virtual Array get(const Buffer& buffer) = 0;

  virtual Buffer empty(DType dtype, const Dims& dims) = 0;  // with undefined contents

  // Fills `target` with what `source`, of the same size, holds after all that was asked before; an
  // array may change as soon as this returns.
  virtual void copy(const Buffer& source, const Buffer& target) = 0;
  virtual void copy(const Array& source, const Buffer& target) = 0;

  // Whether all numbers of a float32 buffer are finite; waits for them.
  virtual bool is_finite(const Buffer& buffer) = 0;

  // `c_x * x + c_z * z` in float32, both of one shape.
  virtual Buffer mixed(const Buffer& x, float c_x, const Array& z, float c_z) = 0;

  // The entries start to stop of an axis, a view or a copy.
  virtual Buffer cut(const Buffer& buffer, std::size_t axis, std::int64_t start,
                     std::int64_t stop) = 0;

  // Puts a part into its place in `whole`, as `join` of windows.hpp.
  virtual void join(const Buffer& whole, const Buffer& part, std::size_t axis, std::int64_t start,
                    std::int64_t done) = 0;

  // Bytes that can still be taken; none if unknown.
  virtual std::optional<std::int64_t> free_memory() = 0;

  // Gives back what graphs took while they ran; false if the library keeps that.
  virtual bool free_scratch() { return false; }

  // What a graph takes, where the backend knows better than the plan's `activations`.
  virtual std::optional<Footprint> footprint(const std::string&) { return std::nullopt; }
};

// Buffers that are arrays themselves.
class HostMemory : public Backend {
 public:
  Buffer put(const Array& array) override { return Buffer(array); }
  Array get(const Buffer& buffer) override { return buffer.memory(); }
  Buffer empty(DType dtype, const Dims& dims) override { return Buffer(Array(dtype, dims)); }
  void copy(const Buffer& source, const Buffer& target) override { copy(source.memory(), target); }
  void copy(const Array& source, const Buffer& target) override;
  bool is_finite(const Buffer& buffer) override;
  Buffer mixed(const Buffer& x, float c_x, const Array& z, float c_z) override;
  Buffer cut(const Buffer& buffer, std::size_t axis, std::int64_t start,
             std::int64_t stop) override {
    return Buffer(buffer.memory().part(axis, start, stop));
  }
  void join(const Buffer& whole, const Buffer& part, std::size_t axis, std::int64_t start,
            std::int64_t done) override;
};

}  // namespace edgereel_runtime
