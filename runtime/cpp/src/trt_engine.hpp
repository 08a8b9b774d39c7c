// One compiled graph on the device: what it is bound to, and the calls of it that were recorded.
#pragma once

#include <NvInferRuntime.h>

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend.hpp"
#include "builds.hpp"
#include "cuda.hpp"

namespace edgereel_runtime {

// Scratch memory that all engines share: their calls follow each other on one stream.
class Arena {
 public:
  explicit Arena(CudaMemory& memory) : memory_(memory) {}

  // Room for an engine. Memory that was there before may be another afterwards: `moves` counts.
  void* at_least(std::int64_t bytes);

  std::int64_t bytes = 0;
  std::size_t moves = 0;

 private:
  CudaMemory& memory_;
  std::shared_ptr<char> block_;
};

// What the backend and all of its engines share.
struct TrtShared {
  CudaMemory memory;
  Arena arena{memory};
};

class TrtEngine : public Engine {
 public:
  TrtEngine(std::unique_ptr<nvinfer1::ICudaEngine> engine, std::string graph, BuiltEngine record,
            std::shared_ptr<TrtShared> shared);
  ~TrtEngine() override;

  // Queues one call, and waits for the one before the last. A call with the shapes and addresses
  // of an earlier one is recorded as a CUDA graph, and played from then on.
  void run(const Buffers& inputs, const Buffers& outputs) override;

  std::string precision() const override { return record_.precision; }

 private:
  // Where a tensor is, and its sizes.
  struct Place {
    char* address;
    Dims dims;

    bool operator==(const Place& other) const {
      return address == other.address && dims == other.dims;
    }
  };
  using Places = std::map<std::string, Place>;

  struct Recording {
    Places places;
    cudaGraphExec_t graph;
  };

  // An execution context, for one profile.
  struct Context {
    std::unique_ptr<nvinfer1::IExecutionContext> made;
    Places bound;
    std::int64_t scratch_bytes = 0;
    std::size_t moves = 0;  // of the arena, when its memory was given
    bool capturable = true;
    std::deque<Places> seen;  // of the last calls that were queued directly
    std::deque<Recording> recordings;

    void forget();  // recordings hold for the shapes and the memory they were made with
    bool play(const Places& places, cudaStream_t stream) const;
  };

  Buffer aligned(const std::string& name, const Buffer& buffer);
  void call(const Buffers& inputs, const Places& places);
  std::size_t profile(const Buffers& inputs) const;
  Context& context(std::size_t profile);
  void place_scratch(Context& context);
  void bind(Context& context, const Buffers& inputs, const Places& places);
  bool record(Context& context, const Places& places);
  void queue(Context& context);

  std::shared_ptr<TrtShared> shared_;  // outlives the rest
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::string graph_;
  BuiltEngine record_;
  std::map<std::string, Buffer> aligned_;  // by tensor, for those whose own memory is not
  std::map<std::size_t, Context> contexts_;
};

}  // namespace edgereel_runtime
