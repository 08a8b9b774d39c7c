#include "trt.hpp"

#include <NvInferRuntime.h>

#include <algorithm>
#include <mutex>

#include "builds.hpp"
#include "errors.hpp"
#include "ops.hpp"
#include "trt_engine.hpp"

namespace edgereel_runtime {
namespace {

#ifdef TRT_MAJOR_RTX
const std::string kLibrary = "tensorrt_rtx";
#else
const std::string kLibrary = "tensorrt";
#endif

// Keeps what the library says went wrong.
class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard<std::mutex> hold(lock_);
    errors_.emplace_back(message);
    if (errors_.size() > 2) errors_.erase(errors_.begin());
  }

  std::string last() {
    const std::lock_guard<std::mutex> hold(lock_);
    return errors_.empty() ? "no reason given" : joined(errors_, "; ");
  }

 private:
  std::mutex lock_;
  Words errors_;
};

// The library's version with as many numbers as another has.
std::string version_like(const std::string& other) {
  const std::int32_t numbers[] = {getInferLibMajorVersion(), getInferLibMinorVersion(),
                                  getInferLibPatchVersion(), getInferLibBuildVersion()};
  const auto dots = static_cast<std::size_t>(std::count(other.begin(), other.end(), '.'));
  Words parts;
  for (std::size_t i = 0; i <= std::min<std::size_t>(dots, 3); ++i) {
    parts.push_back(std::to_string(numbers[i]));
  }
  return joined(parts, ".");
}

std::string name_of_type(nvinfer1::DataType type) {
  static const char* const kNames[] = {"FLOAT", "HALF", "INT8",  "INT32", "BOOL", "UINT8",
                                       "FP8",   "BF16", "INT64", "INT4",  "FP4"};
  const auto index = static_cast<std::size_t>(type);
  return index < std::size(kNames) ? kNames[index] : "type " + std::to_string(index);
}

std::string name_of_type(const std::string& dtype) {
  static const std::map<std::string, std::string> kNames = {
      {"float32", "FLOAT"}, {"float16", "HALF"}, {"int64", "INT64"},
      {"int32", "INT32"},   {"uint8", "UINT8"},  {"bool", "BOOL"}};
  return kNames.at(dtype);
}

// As Python writes a dictionary.
std::string braced(const Named<std::string>& types) {
  Words parts;
  for (const auto& [name, type] : types) parts.push_back(shown(name) + ": " + shown(type));
  return "{" + joined(parts) + "}";
}

void check_declaration(const nvinfer1::ICudaEngine& engine, const GraphSpec& spec) {
  for (const bool input : {true, false}) {
    const auto side = input ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
    Named<std::string> found, declared;
    for (std::int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
      const char* name = engine.getIOTensorName(i);
      if (engine.getTensorIOMode(name) != side) continue;
      found.entries.emplace_back(name, name_of_type(engine.getTensorDataType(name)));
    }
    for (const auto& [name, tensor] : input ? spec.inputs : spec.outputs) {
      declared.entries.emplace_back(name, name_of_type(tensor.dtype));
    }
    auto one = found.entries, other = declared.entries;
    std::sort(one.begin(), one.end());
    std::sort(other.begin(), other.end());
    if (one == other) continue;
    fail(Kind::kEngine, spec.file + ": the engine has " + braced(found) + ", plan.json says " +
                            braced(declared) +
                            ". Compile the cascade again with `python export/build.py compile`.");
  }
}

class TrtBackend : public Backend {
 public:
  explicit TrtBackend(const Plan& plan) : plan_(plan), shared_(std::make_shared<TrtShared>()) {
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    if (!runtime_) {
      fail(Kind::kUnavailable, kLibrary + " does not start (" + logger_.last() +
                                   "); expected the version that this library was compiled for. "
                                   "Install that one, or build libedgereel again.");
    }
    for (const auto& [name, mode] : plan.document().modes) check_builds(mode);
  }

  std::unique_ptr<Engine> load(const std::string&, const GraphSpec& spec) override {
    cuda_done(cudaSetDevice(0), "use GPU 0");  // this may be a thread of its own
    for (const auto& [graph, other] : plan_.document().graphs) {
      if (other.file != spec.file) continue;
      const Build& build = build_of(graph);
      return std::make_unique<TrtEngine>(opened(build, graph, spec), graph,
                                         build.record.graphs.at(graph), shared_);
    }
    return nullptr;  // a graph is one of the plan's
  }

  bool loads_ahead() const override { return true; }

  bool is_finite(const Buffer& buffer) override { return shared_->memory.is_finite(buffer); }
  Buffer mixed(const Buffer& x, float c_x, const Array& z, float c_z) override {
    return shared_->memory.mixed(x, c_x, z, c_z);
  }
  Buffer cut(const Buffer& buffer, std::size_t axis, std::int64_t start,
             std::int64_t stop) override {
    return shared_->memory.cut(buffer, axis, start, stop);
  }
  void join(const Buffer& whole, const Buffer& part, std::size_t axis, std::int64_t start,
            std::int64_t done) override {
    shared_->memory.join(whole, part, axis, start, done);
  }

  Buffer put(const Array& array) override { return shared_->memory.put(array); }
  Array get(const Buffer& buffer) override { return shared_->memory.get(buffer); }
  Buffer empty(DType dtype, const Dims& dims) override {
    return shared_->memory.empty(dtype, dims);
  }
  void copy(const Buffer& source, const Buffer& target) override {
    shared_->memory.copy(source, target);
  }

  void copy(const Array& source, const Buffer& target) override {
    shared_->memory.copy(source, target);
  }

  std::optional<std::int64_t> free_memory() override { return shared_->memory.free_bytes(); }

  // What build.json says of the engine.
  std::optional<Footprint> footprint(const std::string& graph) override {
    const BuiltEngine& engine = build_of(graph).record.graphs.at(graph);
    return Footprint{static_cast<std::int64_t>(engine.weights_bytes),
                     static_cast<std::int64_t>(engine.activation_bytes)};
  }

 private:
  // Throws Error if a graph of a mode has no build that fits.
  void check_builds(const Mode& mode) {
    for (const Stage& stage : mode.stages) {
      for (const Op& op : stage.ops) {
        if (const std::string* graph = graph_of(op)) build_of(*graph);
      }
    }
  }

  // The build whose engine of this graph fits this plan and machine.
  const Build& build_of(const std::string& graph) {
    const std::lock_guard<std::mutex> hold(lock_);
    const auto found = builds_.find(graph);
    return found != builds_.end() ? found->second : builds_[graph] = chosen(graph);
  }

  Build chosen(const std::string& graph) const {
    const GraphSpec& spec = plan_.document().graphs.at(graph);
    WantedBuild wanted{
        graph, {}, spec.precision, {kLibrary, version_like}, shared_->memory.capability()};
    Words files = spec.weights;
    files.insert(files.begin(), spec.file);
    for (const std::string& file : files) {
      wanted.source.entries.emplace_back(file, plan_.document().files.at(file));
    }
    return choose_build(plan_.folder(), wanted);
  }

  std::unique_ptr<nvinfer1::ICudaEngine> opened(const Build& build, const std::string& graph,
                                                const GraphSpec& spec) {
    const std::string content = build.engine(graph);
    std::unique_ptr<nvinfer1::ICudaEngine> engine(
        runtime_->deserializeCudaEngine(content.data(), content.size()));
    if (!engine) {
      fail(Kind::kEngine, "graph " + graph + ": " + kLibrary + " " +
                              version_like(build.record.library.version) +
                              " cannot open its engine in " + build.folder + " (" + logger_.last() +
                              "); expected an engine for " + shared_->memory.device() + "; " +
                              rebuild(build.folder));
    }
    check_declaration(*engine, spec);
    // Weights that do not all fit come from host memory while it runs, if it was compiled so.
    if (engine->getStreamableWeightsSize() > shared_->memory.free_bytes()) {
      engine->setWeightStreamingBudgetV2(engine->getWeightStreamingAutomaticBudget());
    }
    return engine;
  }

  const Plan& plan_;
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::shared_ptr<TrtShared> shared_;
  std::mutex lock_;
  std::map<std::string, Build> builds_;  // by graph, chosen once
};

}  // namespace

std::unique_ptr<Backend> make_trt(const Plan& plan) { return std::make_unique<TrtBackend>(plan); }

}  // namespace edgereel_runtime
