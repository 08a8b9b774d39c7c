#include "ort.hpp"

#include <malloc.h>

#include <algorithm>
#include <map>
#include <utility>

#include "errors.hpp"
#include "host_memory.hpp"
#include "ort_library.hpp"

namespace edgereel_runtime {
namespace {

// Returns memory that was freed to the system, which glibc keeps otherwise.
void give_back() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

// A graph that gives back its input x, u8 [0], as y: the arena is emptied at the end of a run.
constexpr char kIdle[] =
    "\x08\x08\x12\x00:7\n\x10\n\x01x\x12\x01y\"\x08Identity\x12\x01g"
    "Z\x0f\n\x01x\x12\n\n\x08\x08\x02\x12\x04\n\x02\x08\x00"
    "b\x0f\n\x01y\x12\n\n\x08\x08\x02\x12\x04\n\x02\x08\x00"
    "B\x04\n\x00\x10\x11";

ONNXTensorElementDataType onnx_type(DType dtype) {
  static const ONNXTensorElementDataType kTypes[] = {
      ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
      ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
      ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL};
  return kTypes[static_cast<int>(dtype)];
}

std::string type_name(ONNXTensorElementDataType type) {
  static const std::map<int, std::string> kNames = {
      {1, "float"},   {2, "uint8"},   {3, "int8"},    {4, "uint16"},   {5, "int16"},
      {6, "int32"},   {7, "int64"},   {8, "string"},  {9, "bool"},     {10, "float16"},
      {11, "double"}, {12, "uint32"}, {13, "uint64"}, {16, "bfloat16"}};
  const auto found = kNames.find(type);
  return "tensor(" + (found != kNames.end() ? found->second : std::to_string(type)) + ")";
}

using Ports = std::map<std::string, std::string>;  // name -> type and rank

std::string listed(const Ports& ports, const Words& order) {
  Words all;
  for (const std::string& name : order) all.push_back(name + " " + ports.at(name));
  return joined(all);
}

void check_declaration(const GraphSpec& spec, const std::string& side, const Ports& found,
                       const Words& order) {
  const Named<TensorSpec>& tensors = side == "inputs" ? spec.inputs : spec.outputs;
  Ports declared;
  for (const auto& [name, tensor] : tensors) {
    declared[name] = type_name(onnx_type(dtype_of(tensor.dtype))) + " rank " +
                     std::to_string(tensor.shape.size());
  }
  if (found == declared) return;
  fail(Kind::kEngine, spec.file + ": its " + side + " are " + listed(found, order) + "; expected " +
                          listed(declared, tensors.keys()) +
                          " as plan.json says. Export the cascade again.");
}

void check_ports(const Ort::Session& session, const GraphSpec& spec) {
  Ort::AllocatorWithDefaultOptions allocator;
  for (const bool input : {true, false}) {
    Ports found;
    Words order;
    const std::size_t count = input ? session.GetInputCount() : session.GetOutputCount();
    for (std::size_t i = 0; i < count; ++i) {
      const auto name = input ? session.GetInputNameAllocated(i, allocator)
                              : session.GetOutputNameAllocated(i, allocator);
      const auto type = input ? session.GetInputTypeInfo(i) : session.GetOutputTypeInfo(i);
      const auto info = type.GetTensorTypeAndShapeInfo();
      order.push_back(name.get());
      found[name.get()] =
          type_name(info.GetElementType()) + " rank " + std::to_string(info.GetDimensionsCount());
    }
    check_declaration(spec, input ? "inputs" : "outputs", found, order);
  }
}

class OrtEngine : public Engine {
 public:
  OrtEngine(Ort::Session session, std::string file)
      : session_(std::move(session)), file_(std::move(file)) {}

  void run(const Buffers& inputs, const Buffers& outputs) override {
    std::vector<const char*> in_names, out_names;
    std::vector<Ort::Value> in = values(inputs, in_names), out = values(outputs, out_names);
    try {
      session_.Run(Ort::RunOptions(), in_names.data(), in.data(), in.size(), out_names.data(),
                   out.data(), out.size());
    } catch (const Ort::Exception& error) {
      fail(Kind::kEngine, file_ + ": ONNX Runtime failed to run it (" + first_line(error) +
                              "); expected it to fill outputs of the shapes in plan.json. Export "
                              "the cascade again; if memory ran out, use a smaller size or chunk.");
    }
  }

 private:
  static std::vector<Ort::Value> values(const Buffers& buffers, std::vector<const char*>& names) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    std::vector<Ort::Value> found;
    for (const auto& [name, buffer] : buffers) {
      names.push_back(name.c_str());
      found.push_back(Ort::Value::CreateTensor(memory, buffer.memory().raw(), buffer.bytes(),
                                               buffer.dims().data(), buffer.dims().size(),
                                               onnx_type(buffer.dtype())));
    }
    return found;
  }

  Ort::Session session_;
  std::string file_;
};

class OrtBackend : public HostMemory {
 public:
  explicit OrtBackend(OrtOptions options) : options_(std::move(options)) {
    if (options_.provider != "cpu") check_provider();
    ort_environment();
  }

  std::unique_ptr<Engine> load(const std::string& path, const GraphSpec& spec) override {
    const Ort::SessionOptions options = session_options();
    give_back();  // what dropped engines had
    try {
      Ort::Session session(ort_environment(), path.c_str(), options);
      give_back();
      check_ports(session, spec);
      return std::make_unique<OrtEngine>(std::move(session), spec.file);
    } catch (const Ort::Exception& error) {
      fail(Kind::kEngine, spec.file + ": ONNX Runtime cannot load it (" + first_line(error) +
                              "); expected a graph for onnxruntime " + ort_version() +
                              ". Export the cascade again, or upgrade onnxruntime.");
    }
  }

  bool has_kernels() const override {
    return options_.provider == "cpu" && !options_.kernels.empty();
  }

  // Empties the arena that all sessions share.
  bool free_scratch() override {
    if (options_.provider != "cpu") return false;
    Ort::RunOptions options;
    options.AddConfigEntry("memory.enable_memory_arena_shrinkage", "cpu:0");
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    const std::int64_t none = 0;
    std::uint8_t nothing = 0;
    const Ort::Value x = Ort::Value::CreateTensor<std::uint8_t>(memory, &nothing, 0, &none, 1);
    const char *in = "x", *out = "y";
    if (!idle_) {
      Ort::SessionOptions plain;
      plain.SetIntraOpNumThreads(1);
      plain.AddConfigEntry("session.use_env_allocators", "1");
      idle_.emplace(ort_environment(), kIdle, sizeof(kIdle) - 1, plain);
    }
    idle_->Run(options, &in, &x, 1, &out, 1);
    return true;
  }

  std::optional<std::int64_t> free_memory() override {
    if (options_.provider != "cpu") return std::nullopt;
    return edgereel_runtime::free_memory("/");
  }

 private:
  std::string onnx_provider() const {
    static const std::map<std::string, std::string> kProviders = {
        {"cuda", "CUDAExecutionProvider"},
        {"tensorrt", "TensorrtExecutionProvider"},
        {"tensorrt-rtx", "NvTensorRTRTXExecutionProvider"}};
    const auto found = kProviders.find(options_.provider);
    if (found == kProviders.end()) {
      fail(Kind::kInput,
           "provider is " + shown(options_.provider) +
               "; expected cpu, cuda, tensorrt, tensorrt-rtx, trt. Choose one of these.");
    }
    return found->second;
  }

  void check_provider() const {
    const std::string wanted = onnx_provider();
    const std::vector<std::string> found = Ort::GetAvailableProviders();
    if (std::find(found.begin(), found.end(), wanted) != found.end()) return;
    fail(Kind::kUnavailable, "ONNX Runtime " + ort_version() + " has the providers " +
                                 joined(found) + "; expected " + wanted +
                                 " among them. Install an ONNX Runtime with it, such as the "
                                 "package onnxruntime-gpu, or use the provider cpu.");
  }

  void add_provider(Ort::SessionOptions& options) const {
    if (options_.provider == "cuda") {
      OrtCUDAProviderOptionsV2* cuda = nullptr;
      Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&cuda));
      const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> held(
          cuda, Ort::GetApi().ReleaseCUDAProviderOptions);
      options.AppendExecutionProvider_CUDA_V2(*cuda);
    } else if (options_.provider == "tensorrt") {
      OrtTensorRTProviderOptionsV2* trt = nullptr;
      Ort::ThrowOnError(Ort::GetApi().CreateTensorRTProviderOptions(&trt));
      const std::unique_ptr<OrtTensorRTProviderOptionsV2, void (*)(OrtTensorRTProviderOptionsV2*)>
          held(trt, Ort::GetApi().ReleaseTensorRTProviderOptions);
      options.AppendExecutionProvider_TensorRT_V2(*trt);
    } else if (options_.provider == "tensorrt-rtx") {
      options.AppendExecutionProvider("NvTensorRtRtx", {});
    }
  }

  Ort::SessionOptions session_options() const {
    Ort::SessionOptions options;
    options.SetGraphOptimizationLevel(ORT_ENABLE_ALL);
    options.SetIntraOpNumThreads(options_.threads);
    options.SetInterOpNumThreads(1);
    options.AddConfigEntry("session.use_env_allocators", "1");
    options.DisableMemPattern();
    try {
      add_provider(options);
    } catch (const Ort::Exception& error) {
      fail(Kind::kUnavailable, "the provider " + options_.provider + " does not start (" +
                                   first_line(error) +
                                   "); expected its libraries. Install them, or use the provider "
                                   "cpu.");
    }
    if (options_.kernels.empty()) return options;
    try {
      options.RegisterCustomOpsLibrary(options_.kernels.c_str());
    } catch (const Ort::Exception& error) {
      fail(Kind::kEngine, options_.kernels + ": ONNX Runtime cannot load it (" + first_line(error) +
                              "); expected kernels for onnxruntime " + ort_version() +
                              ". Install them again with `pip install ./kernels`, or do without "
                              "them.");
    }
    return options;
  }

  OrtOptions options_;
  std::optional<Ort::Session> idle_;  // of kIdle
};

}  // namespace

std::unique_ptr<Backend> make_ort(const OrtOptions& options) {
  load_ort(options.library);
  return std::make_unique<OrtBackend>(options);
}

}  // namespace edgereel_runtime
