// An engine's plan is a text: a line for each input and output, such as `x FLOAT in K 2`, or
// `scratch 4096` and `streamable 9`, bytes; an axis with a name has the size that the inputs give
// it, and one of an output may be a multiple or part of such, `h*4` or `H/4`.
#include <NvInferRuntime.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>

#include "fake_gpu.hpp"
#include "tensorrt_stubs.hpp"  // made by CMake: everything that is not asked for

namespace fake {
namespace {

using edgereel_runtime::Dims;
using edgereel_runtime::DType;
using nvinfer1::DataType;

const std::map<std::string, std::pair<DataType, DType>> kTypes = {
    {"FLOAT", {DataType::kFLOAT, DType::kFloat32}}, {"HALF", {DataType::kHALF, DType::kFloat16}},
    {"INT64", {DataType::kINT64, DType::kInt64}},   {"INT32", {DataType::kINT32, DType::kInt32}},
    {"UINT8", {DataType::kUINT8, DType::kUint8}},   {"BOOL", {DataType::kBOOL, DType::kBool}}};

struct Port {
  std::string name, type;
  bool input = false;
  std::vector<std::string> axes;
};

struct Plan {
  std::vector<Port> ports;
  std::int64_t scratch = 0, streamable = 0;

  const Port& at(const char* name) const {
    for (const Port& port : ports) {
      if (port.name == name) return port;
    }
    std::abort();
  }
};

using Sizes = std::map<std::string, std::int64_t>;

std::int64_t size_of(const std::string& axis, const Sizes& sizes) {
  if (axis.find_first_not_of("0123456789") == std::string::npos) return std::stoll(axis);
  const std::size_t sign = axis.find_first_of("*/");
  const std::int64_t size = sizes.at(axis.substr(0, sign));
  if (sign == std::string::npos) return size;
  const std::int64_t by = std::stoll(axis.substr(sign + 1));
  return axis[sign] == '*' ? size * by : size / by;
}

class ContextImpl : public StubExecutionContext {
 public:
  explicit ContextImpl(const Plan& plan) : plan_(plan) {}

  bool setOptimizationProfileAsync(std::int32_t index, cudaStream_t) noexcept override {
    machine().log.push_back("profile " + std::to_string(index));
    return true;
  }
  bool setInputShape(const char* name, const nvinfer1::Dims& dims) noexcept override {
    machine().log.push_back("shape " + std::string(name));
    shapes_[name] = Dims(dims.d, dims.d + dims.nbDims);
    reshaped_ = true;
    return plan_.at(name).input;
  }
  bool setTensorAddress(const char* name, void* address) noexcept override {
    if (reinterpret_cast<std::uintptr_t>(address) % 256 != 0) std::abort();
    machine().log.push_back("address " + std::string(name));
    addresses_[name] = address;
    return true;
  }
  void setDeviceMemoryV2(void* memory, std::int64_t bytes) noexcept override {
    machine().log.push_back("memory " + std::to_string(bytes));
    scratch_ = bytes >= plan_.scratch ? memory : nullptr;
  }
  bool enqueueV3(cudaStream_t stream) noexcept override;

 private:
  const Plan& plan_;
  std::map<std::string, Dims> shapes_;
  std::map<std::string, void*> addresses_;
  void* scratch_ = nullptr;
  bool reshaped_ = false;
};

bool ContextImpl::enqueueV3(cudaStream_t stream) noexcept {
  if (stream != reinterpret_cast<cudaStream_t>(77)) return false;
  if (reshaped_ && recording()) return false;  // the first call of a shape cannot be recorded
  if (plan_.scratch > 0 && scratch_ == nullptr) return false;
  reshaped_ = false;
  if (!recording()) machine().log.push_back("enqueue");
  Sizes sizes;
  for (const Port& port : plan_.ports) {
    if (!port.input) continue;
    for (std::size_t i = 0; i < port.axes.size(); ++i) {
      sizes[port.axes[i]] = shapes_.at(port.name).at(i);
    }
  }
  std::vector<Tensor> sides[2];
  for (const Port& port : plan_.ports) {
    Dims dims;
    for (const std::string& axis : port.axes) dims.push_back(size_of(axis, sizes));
    char* memory = static_cast<char*>(addresses_.at(port.name));
    sides[port.input ? 0 : 1].push_back({port.name, kTypes.at(port.type).second, dims, memory});
  }
  void* scratch = scratch_;
  const std::size_t bytes = static_cast<std::size_t>(plan_.scratch);
  queue([inputs = sides[0], outputs = sides[1], scratch, bytes]() mutable {
    for (Tensor& tensor : inputs) tensor.memory = host(tensor.memory);
    for (Tensor& tensor : outputs) tensor.memory = host(tensor.memory);
    for (std::size_t i = 0; i < bytes; ++i) host(scratch)[i] = static_cast<char>(i);
    compute(inputs, outputs);
  });
  return true;
}

class Context : public nvinfer1::IExecutionContext {
 public:
  explicit Context(const Plan& plan) : impl_(plan) { mImpl = &impl_; }

 private:
  ContextImpl impl_;
};

class EngineImpl : public StubCudaEngine {
 public:
  Plan plan;

  nvinfer1::IExecutionContext* createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy strategy) noexcept override {
    if (strategy != nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED) return nullptr;
    return new Context(plan);
  }
  std::int64_t getDeviceMemorySizeForProfileV2(std::int32_t) const noexcept override {
    return plan.scratch;
  }
  std::int64_t getStreamableWeightsSize() const noexcept override { return plan.streamable; }
  std::int64_t getWeightStreamingAutomaticBudget() const noexcept override { return 7; }
  bool setWeightStreamingBudgetV2(std::int64_t bytes) noexcept override {
    machine().log.push_back("stream " + std::to_string(bytes));
    return true;
  }
  std::int32_t getNbIOTensors() const noexcept override {
    return static_cast<std::int32_t>(plan.ports.size());
  }
  const char* getIOTensorName(std::int32_t index) const noexcept override {
    return plan.ports[static_cast<std::size_t>(index)].name.c_str();
  }
  nvinfer1::TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    return plan.at(name).input ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
  }
  DataType getTensorDataType(const char* name) const noexcept override {
    return kTypes.at(plan.at(name).type).first;
  }
};

class Engine : public nvinfer1::ICudaEngine {
 public:
  explicit Engine(const std::string& text) {
    mImpl = &impl_;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      Port port;
      std::string side;
      words >> port.name >> port.type >> side;
      if (port.name == "scratch") impl_.plan.scratch = std::stoll(port.type);
      if (port.name == "streamable") impl_.plan.streamable = std::stoll(port.type);
      if (side.empty()) continue;
      port.input = side == "in";
      for (std::string axis; words >> axis;) port.axes.push_back(axis);
      impl_.plan.ports.push_back(port);
    }
  }

 private:
  EngineImpl impl_;
};

class RuntimeImpl : public StubRuntime {
 public:
  explicit RuntimeImpl(nvinfer1::ILogger* logger) : logger_(logger) {}

  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* plan,
                                               std::size_t bytes) noexcept override {
    const std::string text(static_cast<const char*>(plan), bytes);
    if (text.find(" in") != std::string::npos) return new Engine(text);
    logger_->log(nvinfer1::ILogger::Severity::kWARNING, "not to be told");
    logger_->log(nvinfer1::ILogger::Severity::kERROR, "the plan is of another kind");
    return nullptr;
  }

 private:
  nvinfer1::ILogger* logger_;
};

class Runtime : public nvinfer1::IRuntime {
 public:
  explicit Runtime(nvinfer1::ILogger* logger) : impl_(logger) { mImpl = &impl_; }

 private:
  RuntimeImpl impl_;
};

double number(const Tensor& tensor, std::size_t i) {
  switch (tensor.dtype) {
    case DType::kFloat32:
      return reinterpret_cast<const float*>(tensor.memory)[i];
    case DType::kFloat16:
      return edgereel_runtime::from_half(reinterpret_cast<const std::uint16_t*>(tensor.memory)[i]);
    case DType::kInt64:
      return static_cast<double>(reinterpret_cast<const std::int64_t*>(tensor.memory)[i]);
    case DType::kInt32:
      return reinterpret_cast<const std::int32_t*>(tensor.memory)[i];
    default:
      return reinterpret_cast<const std::uint8_t*>(tensor.memory)[i];
  }
}

void put_number(const Tensor& tensor, std::size_t i, double value) {
  switch (tensor.dtype) {
    case DType::kFloat32:
      reinterpret_cast<float*>(tensor.memory)[i] = static_cast<float>(value);
      break;
    case DType::kFloat16:
      reinterpret_cast<std::uint16_t*>(tensor.memory)[i] =
          edgereel_runtime::to_half(static_cast<float>(value));
      break;
    case DType::kInt64:
      reinterpret_cast<std::int64_t*>(tensor.memory)[i] = std::llround(value * 100);
      break;
    case DType::kInt32:
      reinterpret_cast<std::int32_t*>(tensor.memory)[i] = static_cast<int>(value * 100);
      break;
    default:
      tensor.memory[i] = static_cast<char>(127 + value * 100);
  }
}

}  // namespace

void compute(std::vector<Tensor> inputs, const std::vector<Tensor>& outputs) {
  const auto by_name = [](const Tensor& a, const Tensor& b) { return a.name < b.name; };
  std::sort(inputs.begin(), inputs.end(), by_name);
  for (const Tensor& to : outputs) {
    for (std::size_t i = 0; i < edgereel_runtime::product(to.dims); ++i) {
      double sum = static_cast<double>(to.name.size());
      for (const Tensor& from : inputs) {
        const std::size_t count = edgereel_runtime::product(from.dims);
        if (count > 0) sum = 0.7 * sum + number(from, i % count) + 0.3 * number(from, count - 1);
      }
      put_number(to, i, std::isfinite(sum) ? std::sin(sum) : sum);
    }
  }
}

}  // namespace fake

extern "C" {

void* createInferRuntime_INTERNAL(void* logger, std::int32_t version) noexcept {
  if (version != NV_TENSORRT_VERSION) return nullptr;
  return static_cast<nvinfer1::IRuntime*>(
      new fake::Runtime(static_cast<nvinfer1::ILogger*>(logger)));
}
std::int32_t getInferLibMajorVersion() noexcept { return 11; }
std::int32_t getInferLibMinorVersion() noexcept { return 3; }
std::int32_t getInferLibPatchVersion() noexcept { return 0; }
std::int32_t getInferLibBuildVersion() noexcept { return 12; }

}  // extern "C"
