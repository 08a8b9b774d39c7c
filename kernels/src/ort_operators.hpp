// What operators of domain `edgereel` for ONNX Runtime share: refusals, and reading of a node.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "attention_inputs.hpp"

#ifdef _WIN32
#define EDGEREEL_EXPORT __declspec(dllexport)
#else
#define EDGEREEL_EXPORT __attribute__((visibility("default")))
#endif

namespace edgereel::ort {

template <typename T>
constexpr ONNXTensorElementDataType kType =
    std::is_same_v<T, float> ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                             : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;

template <typename... Parts>
[[noreturn]] void refuse(const std::string& node, const Parts&... parts) {
  ORT_CXX_API_THROW(node + ": " + sentence(parts...), ORT_INVALID_ARGUMENT);
}

// A node of TemporalAttention. What its inputs' shapes tell when a session is made is checked then,
// the rest when it runs; `limits` says what a kernel does not take, "" if it takes a shape.
class AttentionNode {
 public:
  using Limits = std::string (*)(const TemporalAttentionShape&);

  AttentionNode(const OrtKernelInfo* info, Limits limits) : limits(limits) {
    const Ort::ConstKernelInfo told(info);
    name = told.GetNodeName();
    attributes = {told.GetAttribute<std::int64_t>("heads"),
                  told.GetAttribute<std::int64_t>("interleaved") != 0,
                  told.GetAttribute<float>("scale")};
    Sizes sizes[4];
    const Sizes* given[4] = {};
    for (std::size_t i = 0; i < told.GetInputCount(); ++i)
      if (!told.GetInputName(i).empty()) {
        const Ort::TypeInfo type = told.GetInputTypeInfo(i);
        sizes[i] = type.GetTensorTypeAndShapeInfo().GetShape();
        given[i] = &sizes[i];
      }
    check(given);
  }

  struct Given {
    Ort::ConstValue qkv;
    const float* tables[3];  // cos, sin, bias; null where there is none
    Sizes sizes;             // of qkv
    TemporalAttentionShape shape;
  };

  // The inputs of a call.
  Given read(const Ort::KernelContext& context) const {
    Given result = {context.GetInput(0), {}, {}, {}};
    Sizes sizes[4];
    const Sizes* given[4] = {};
    for (std::size_t i = 0; i < context.GetInputCount(); ++i)
      if (const Ort::ConstValue value = context.GetInput(i)) {
        sizes[i] = value.GetTensorTypeAndShapeInfo().GetShape();
        given[i] = &sizes[i];
        if (i > 0) result.tables[i - 1] = value.GetTensorData<float>();
      }
    if (sizes[0].empty()) refuse(name, "qkv is one number; expected [B, F, S, 3 * C]");
    result.shape = check(given);
    result.sizes = sizes[0];
    return result;
  }

  std::string name;

 private:
  TemporalAttentionShape check(const Sizes* const (&given)[4]) const {
    TemporalAttentionShape shape;
    std::string refusal = read_shape(attributes, {given[0], given[1], given[2], given[3]}, shape);
    if (refusal.empty()) refusal = limits(shape);
    if (!refusal.empty()) refuse(name, refusal);
    return shape;
  }

  Limits limits;
  AttentionAttributes attributes;
};

// The operator of a kernel; null is the provider for CPUs.
template <typename T, typename Kernel>
struct AttentionOp : Ort::CustomOpBase<AttentionOp<T, Kernel>, Kernel> {
  void* CreateKernel(const OrtApi&, const OrtKernelInfo* info) const { return new Kernel(info); }
  const char* GetName() const { return "TemporalAttention"; }
  const char* GetExecutionProviderType() const { return Kernel::kProvider; }
  std::size_t GetInputTypeCount() const { return 4; }
  ONNXTensorElementDataType GetInputType(std::size_t index) const {
    return index ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : kType<T>;
  }
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(std::size_t index) const {
    return index ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  }
  std::size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(std::size_t) const { return kType<T>; }
};

// What a library exports as RegisterCustomOps: `operators`, called once, gives what it has.
template <typename Operators>
OrtStatus* add_operators(OrtSessionOptions* options, const OrtApiBase* base, Operators operators) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr)
    return base->GetApi(1)->CreateStatus(
        ORT_INVALID_ARGUMENT, "this ONNX Runtime is older than the one the kernels were made for");
  Ort::InitApi(api);
  try {
    static Ort::CustomOpDomain domain("edgereel");
    static const bool added = [&] {
      for (const OrtCustomOp* op : operators()) domain.Add(op);
      return true;
    }();
    static_cast<void>(added);
    Ort::UnownedSessionOptions(options).Add(domain);
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  }
  return nullptr;
}

}  // namespace edgereel::ort
