#include "trt_engine.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "errors.hpp"
#include "words.hpp"

namespace edgereel_runtime {
namespace {

constexpr std::size_t kMostRecordings = 4;  // of a profile, twice what a loop needs
constexpr std::size_t kMostSeen = 16;
constexpr std::uintptr_t kAlignment = 256;  // of the address of a tensor

bool is_aligned(const Buffer& buffer) {
  return reinterpret_cast<std::uintptr_t>(buffer.memory().raw()) % kAlignment == 0;
}

nvinfer1::Dims dims_of(const Dims& dims) {
  nvinfer1::Dims out{};
  out.nbDims = static_cast<std::int32_t>(dims.size());
  for (std::size_t i = 0; i < dims.size(); ++i) out.d[i] = dims[i];
  return out;
}

// Whether a stream may be recorded; TensorRT-RTX says so, TensorRT's streams always may.
template <typename Made>
auto capturable(const Made& context, cudaStream_t stream, int)
    -> decltype(context.isStreamCapturable(stream)) {
  return context.isStreamCapturable(stream);
}
template <typename Made>
bool capturable(const Made&, cudaStream_t, long) {
  return true;
}

bool holds(const std::array<Dims, 3>& spans, const Dims& dims) {
  if (dims.size() != spans[0].size() || dims.size() != spans[2].size()) return false;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] < spans[0][i] || dims[i] > spans[2][i]) return false;
  }
  return true;
}

}  // namespace

void* Arena::at_least(std::int64_t wanted) {
  if (wanted > bytes) {
    block_.reset();  // given back in the order of the stream, so before the new one is taken
    block_ = memory_.block(static_cast<std::size_t>(wanted));
    bytes = wanted;
    ++moves;
  }
  return block_.get();
}

TrtEngine::TrtEngine(std::unique_ptr<nvinfer1::ICudaEngine> engine, std::string graph,
                     BuiltEngine record, std::shared_ptr<TrtShared> shared)
    : shared_(std::move(shared)),
      engine_(std::move(engine)),
      graph_(std::move(graph)),
      record_(std::move(record)) {}

TrtEngine::~TrtEngine() {
  cudaStreamSynchronize(shared_->memory.stream());  // what is still queued uses it
  for (auto& entry : contexts_) entry.second.forget();
}

void TrtEngine::Context::forget() {
  for (const Recording& one : recordings) cudaGraphExecDestroy(one.graph);
  recordings.clear();
  seen.clear();
}

bool TrtEngine::Context::play(const Places& places, cudaStream_t stream) const {
  const auto same = [&](const Recording& one) { return one.places == places; };
  const auto found = std::find_if(recordings.begin(), recordings.end(), same);
  if (found == recordings.end()) return false;
  cuda_done(cudaGraphLaunch(found->graph, stream), "play a recorded call");
  return true;
}

void TrtEngine::run(const Buffers& inputs, const Buffers& outputs) {
  Places places;
  Buffers given, moved;  // what it reads, and what is to be copied where it was asked for
  for (const auto& [name, buffer] : inputs) {
    const Buffer own = aligned(name, buffer);
    if (!is_aligned(buffer)) shared_->memory.copy(buffer, own);
    given.entries.emplace_back(name, own);
    places[name] = {own.memory().raw(), own.dims()};
  }
  for (const auto& [name, buffer] : outputs) {
    const Buffer own = aligned(name, buffer);
    if (!is_aligned(buffer)) moved.entries.emplace_back(name, buffer);
    places[name] = {own.memory().raw(), own.dims()};
  }
  call(given, places);
  for (const auto& [name, buffer] : moved) shared_->memory.copy(aligned_.at(name), buffer);
  shared_->memory.pace();
}

// The buffer itself, or one of its size where a tensor may be: parts of axis 0 begin anywhere.
Buffer TrtEngine::aligned(const std::string& name, const Buffer& buffer) {
  if (is_aligned(buffer)) return buffer;
  Buffer& own = aligned_[name];
  if (own.dims() != buffer.dims() || own.dtype() != buffer.dtype()) {
    own = shared_->memory.empty(buffer.dtype(), buffer.dims());
  }
  return own;
}

void TrtEngine::call(const Buffers& inputs, const Places& places) {
  Context& own = context(profile(inputs));
  place_scratch(own);
  if (own.play(places, shared_->memory.stream())) return;
  bind(own, inputs, places);
  // The first call of a shape prepares what the next ones use, which cannot be recorded.
  const bool seen = std::find(own.seen.begin(), own.seen.end(), places) != own.seen.end();
  if (seen && record(own, places)) return;
  queue(own);
  if (seen) return;
  own.seen.push_back(places);
  if (own.seen.size() > kMostSeen) own.seen.pop_front();
}

std::size_t TrtEngine::profile(const Buffers& inputs) const {
  for (std::size_t i = 0; i < record_.profiles.size(); ++i) {
    const Profile& profile = record_.profiles[i];
    const bool fits = std::all_of(inputs.begin(), inputs.end(), [&](const auto& input) {
      return profile.has(input.first) && holds(profile.at(input.first), input.second.dims());
    });
    if (fits) return i;
  }
  Words given, known;
  for (const auto& [name, buffer] : inputs) given.push_back(name + " " + listed(buffer.dims()));
  for (const Profile& profile : record_.profiles) {
    Words sizes;
    for (const auto& [name, spans] : profile) sizes.push_back(name + " " + listed(spans[2]));
    known.push_back(joined(sizes));
  }
  fail(Kind::kEngine, "graph " + graph_ + ": no profile takes " + joined(given) +
                          "; its engine was compiled for " + joined(known, " or ") +
                          ". Use one of those, or compile again with `--profile PARAM=SIZES` for "
                          "these sizes.");
}

TrtEngine::Context& TrtEngine::context(std::size_t profile) {
  const auto found = contexts_.find(profile);
  if (found != contexts_.end()) return found->second;
  Context context;
  const auto index = static_cast<std::int32_t>(profile);
  const cudaStream_t stream = shared_->memory.stream();
  context.made.reset(
      engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
  if (!context.made || !context.made->setOptimizationProfileAsync(index, stream)) {
    const Int mebibytes = record_.activation_bytes >> 20;
    fail(Kind::kEngine, "graph " + graph_ + ": TensorRT cannot prepare profile " +
                            std::to_string(profile) + "; expected about " + text(mebibytes) +
                            " MiB of free GPU memory. Free some, or use a smaller size.");
  }
  context.scratch_bytes = engine_->getDeviceMemorySizeForProfileV2(index);
  return contexts_[profile] = std::move(context);
}

void TrtEngine::place_scratch(Context& context) {
  void* memory = shared_->arena.at_least(context.scratch_bytes);
  if (context.moves == shared_->arena.moves) return;
  context.made->setDeviceMemoryV2(memory, shared_->arena.bytes);
  context.moves = shared_->arena.moves;
  context.forget();
}

// Tells the context what moved since its last call.
void TrtEngine::bind(Context& context, const Buffers& inputs, const Places& places) {
  for (const auto& [name, place] : places) {
    const auto before = context.bound.find(name);
    const bool fresh = before == context.bound.end();
    if (inputs.has(name) && (fresh || before->second.dims != place.dims)) {
      context.forget();
      if (!context.made->setInputShape(name.c_str(), dims_of(place.dims))) {
        context.bound.erase(name);
        fail(Kind::kEngine, "graph " + graph_ + ": TensorRT refuses the shape " +
                                listed(place.dims) + " of " + name +
                                "; expected one of its profile. Compile the cascade again.");
      }
    }
    if (fresh || before->second.address != place.address) {
      if (!context.made->setTensorAddress(name.c_str(), place.address)) {
        context.bound.erase(name);
        fail(Kind::kEngine, "graph " + graph_ + ": TensorRT refuses the memory of " + name +
                                "; expected an input or output of its engine. Compile the cascade "
                                "again.");
      }
    }
    context.bound[name] = place;
  }
}

// Records the call that is bound and queues it; false where that does not work, and then nothing
// was queued and none is recorded again.
bool TrtEngine::record(Context& context, const Places& places) {
  const cudaStream_t stream = shared_->memory.stream();
  if (!context.capturable || !capturable(*context.made, stream, 0)) return false;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t made = nullptr;
  bool done = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
  if (done) {
    const bool queued = context.made->enqueueV3(stream);
    done = cudaStreamEndCapture(stream, &graph) == cudaSuccess && queued &&
           cudaGraphInstantiateWithFlags(&made, graph, 0) == cudaSuccess;
  }
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (!done) {
    cudaGetLastError();  // the failure is answered here
    context.capturable = false;
    return false;
  }
  if (context.recordings.size() == kMostRecordings) {
    // CUDA keeps what is still in flight until it is over.
    cudaGraphExecDestroy(context.recordings.front().graph);
    context.recordings.pop_front();
  }
  context.recordings.push_back({places, made});
  cuda_done(cudaGraphLaunch(made, stream), "play a recorded call");
  return true;
}

void TrtEngine::queue(Context& context) {
  if (context.made->enqueueV3(shared_->memory.stream())) return;
  fail(Kind::kEngine, "graph " + graph_ +
                          ": TensorRT failed to queue it; expected inputs as in plan.json and "
                          "enough free GPU memory. Use a smaller size or chunk, or compile the "
                          "engines again.");
}

}  // namespace edgereel_runtime
