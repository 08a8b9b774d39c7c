// The operators of domain `edgereel` for ONNX Runtime on a CPU: a custom-op library.
//
// A graph that uses them has their definitions in standard operators beside them, so it runs
// without this library too. Work is spread over the threads of the session.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

#include <algorithm>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "cpu.hpp"

namespace {

using edgereel::TemporalAttentionShape;

constexpr std::int64_t kTiles = 16;  // of a thread at a time

template <typename T>
constexpr ONNXTensorElementDataType kType =
    std::is_same_v<T, float> ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                             : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;

template <typename T>
const auto kAttention = [] {
  if constexpr (std::is_same_v<T, float>)
    return edgereel::cpu::best().attention;
  else
    return edgereel::cpu::best().attention_half;
}();

template <typename T>
const auto kNorm = [] {
  if constexpr (std::is_same_v<T, float>)
    return edgereel::cpu::best().norm;
  else
    return edgereel::cpu::best().norm_half;
}();

std::string text(const std::vector<std::int64_t>& shape) {
  std::ostringstream out;
  out << '[';
  for (std::size_t i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
  out << ']';
  return out.str();
}

template <typename... Parts>
[[noreturn]] void refuse(const std::string& node, const Parts&... parts) {
  std::ostringstream out;
  out << node << ": ";
  (out << ... << parts);
  ORT_CXX_API_THROW(out.str(), ORT_INVALID_ARGUMENT);
}

// `run(part)` for parts 0 .. count - 1, on the threads of the session.
template <typename Run>
void spread(OrtKernelContext* context, std::int64_t count, const Run& run) {
  Ort::KernelContext(context).ParallelFor(
      [](void* data, std::size_t part) { (*static_cast<const Run*>(data))(std::int64_t(part)); },
      std::size_t(count), 0, const_cast<Run*>(&run));
}

template <typename T>
struct AttentionKernel {
  explicit AttentionKernel(const OrtKernelInfo* info) {
    Ort::ConstKernelInfo told(info);
    node = told.GetNodeName();
    heads = told.GetAttribute<std::int64_t>("heads");
    interleaved = told.GetAttribute<std::int64_t>("interleaved") != 0;
    scale = told.GetAttribute<float>("scale");
    if (heads < 1) refuse(node, "heads is ", heads, "; expected 1 or more");
  }

  void Compute(OrtKernelContext* raw) {
    Ort::KernelContext context(raw);
    const Ort::ConstValue qkv = context.GetInput(0);
    std::vector<std::int64_t> sizes = qkv.GetTensorTypeAndShapeInfo().GetShape();
    if (sizes.size() != 4 || sizes[3] % (3 * heads) != 0 || sizes[3] == 0)
      refuse(node, "qkv is ", text(sizes), "; expected [B, F, S, 3 * C] with C a multiple of ",
             heads, " heads");
    const std::int64_t frames = sizes[1];
    TemporalAttentionShape shape{sizes[0], frames,      sizes[2], heads, sizes[3] / 3 / heads,
                                 0,        interleaved, scale};
    const float* cos = optional(context, 1);
    const float* sin = optional(context, 2);
    const float* bias = optional(context, 3);
    if ((cos == nullptr) != (sin == nullptr)) refuse(node, "expected both of cos and sin, or none");
    if (cos) {
      const auto turned = dims(context, 1);
      const bool fits = turned.size() == 2 && turned[0] == frames && dims(context, 2) == turned &&
                        (interleaved ? 2 * turned[1] <= shape.width : 2 * turned[1] == shape.width);
      if (!fits)
        refuse(node, "cos is ", text(turned), " and sin ", text(dims(context, 2)),
               "; expected both [", frames, " frames, ", interleaved ? "at most " : "",
               shape.width / 2, "]");
      shape.turned = 2 * turned[1];
    }
    if (bias && dims(context, 3) != std::vector<std::int64_t>{heads, frames, frames})
      refuse(node, "bias is ", text(dims(context, 3)), "; expected [", heads, ", ", frames, ", ",
             frames, "]");
    const std::vector<float> cosines = by_frame(cos, 1, frames, shape.turned / 2);
    const std::vector<float> sines = by_frame(sin, 1, frames, shape.turned / 2);
    const std::vector<float> biases = by_frame(bias, heads, frames, frames);
    sizes[3] /= 3;
    Ort::UnownedValue out = context.GetOutput(0, sizes);
    const T* from = qkv.GetTensorData<T>();
    T* to = out.GetTensorMutableData<T>();
    const std::int64_t pixels = kTiles * edgereel::tile_of(shape);
    const std::int64_t parts = (shape.pixels + pixels - 1) / pixels;
    spread(raw, shape.batch * parts, [&](std::int64_t part) {
      std::vector<float> scratch(edgereel::temporal_attention_scratch(shape));
      const std::int64_t start = part % parts * pixels,
                         end = std::min(start + pixels, shape.pixels);
      kAttention<T>(shape, from, cosines.data(), sines.data(), bias ? biases.data() : nullptr, to,
                    part / parts, start, end, scratch.data());
    });
  }

 private:
  // A table as the kernel reads it; empty if there is none.
  static std::vector<float> by_frame(const float* table, std::int64_t batch, std::int64_t frames,
                                     std::int64_t n) {
    std::vector<float> result;
    if (table) {
      result.resize(std::size_t(batch * n * edgereel::padded(frames)));
      edgereel::by_frame(table, batch, frames, n, result.data());
    }
    return result;
  }

  static std::vector<std::int64_t> dims(const Ort::KernelContext& context, std::size_t index) {
    return context.GetInput(index).GetTensorTypeAndShapeInfo().GetShape();
  }

  static const float* optional(const Ort::KernelContext& context, std::size_t index) {
    if (index >= context.GetInputCount()) return nullptr;
    const Ort::ConstValue value = context.GetInput(index);
    return value ? value.GetTensorData<float>() : nullptr;
  }

  std::string node;
  std::int64_t heads;
  bool interleaved;
  float scale;
};

template <typename T>
struct NormKernel {
  explicit NormKernel(const OrtKernelInfo* info) {
    Ort::ConstKernelInfo told(info);
    node = told.GetNodeName();
    groups = told.GetAttribute<std::int64_t>("num_groups");
    epsilon = told.GetAttribute<float>("epsilon");
    if (groups < 1) refuse(node, "num_groups is ", groups, "; expected 1 or more");
  }

  void Compute(OrtKernelContext* raw) {
    Ort::KernelContext context(raw);
    const Ort::ConstValue x = context.GetInput(0), scale = context.GetInput(1),
                          bias = context.GetInput(2);
    const auto info = x.GetTensorTypeAndShapeInfo();
    const std::vector<std::int64_t> sizes = info.GetShape();
    if (sizes.size() < 2 || sizes[1] % groups != 0)
      refuse(node, "x is ", text(sizes), "; expected [N, C, ...] with C a multiple of ", groups);
    for (const auto& value : {scale, bias})
      if (value.GetTensorTypeAndShapeInfo().GetShape() != std::vector<std::int64_t>{sizes[1]})
        refuse(node, "scale and bias must be [", sizes[1], "]");
    Ort::UnownedValue out = context.GetOutput(0, sizes);
    const auto count = std::int64_t(info.GetElementCount());
    if (count == 0) return;
    const std::int64_t channels = sizes[1] / groups, size = count / (sizes[0] * sizes[1]);
    const T* from = x.GetTensorData<T>();
    const T* by = scale.GetTensorData<T>();
    const T* plus = bias.GetTensorData<T>();
    T* to = out.GetTensorMutableData<T>();
    spread(raw, sizes[0] * groups, [&](std::int64_t group) {
      const std::int64_t at = group * channels * size, c = group % groups * channels;
      kNorm<T>(from + at, by + c, plus + c, to + at, channels, size, epsilon);
    });
  }

 private:
  std::string node;
  std::int64_t groups;
  float epsilon;
};

template <typename T>
struct AttentionOp : Ort::CustomOpBase<AttentionOp<T>, AttentionKernel<T>> {
  void* CreateKernel(const OrtApi&, const OrtKernelInfo* info) const {
    return new AttentionKernel<T>(info);
  }
  const char* GetName() const { return "TemporalAttention"; }
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

template <typename T>
struct NormOp : Ort::CustomOpBase<NormOp<T>, NormKernel<T>> {
  void* CreateKernel(const OrtApi&, const OrtKernelInfo* info) const {
    return new NormKernel<T>(info);
  }
  const char* GetName() const { return "GroupNorm"; }
  std::size_t GetInputTypeCount() const { return 3; }
  ONNXTensorElementDataType GetInputType(std::size_t) const { return kType<T>; }
  std::size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(std::size_t) const { return kType<T>; }
};

}  // namespace

#ifdef _WIN32
#define EDGEREEL_EXPORT __declspec(dllexport)
#else
#define EDGEREEL_EXPORT __attribute__((visibility("default")))
#endif

extern "C" EDGEREEL_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                     const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr)
    return base->GetApi(1)->CreateStatus(
        ORT_INVALID_ARGUMENT, "this ONNX Runtime is older than the one the kernels were made for");
  Ort::InitApi(api);
  try {
    static const AttentionOp<float> attention;
    static const AttentionOp<std::uint16_t> attention_half;
    static const NormOp<float> norm;
    static const NormOp<std::uint16_t> norm_half;
    static Ort::CustomOpDomain domain("edgereel");
    static const bool added = [] {
      for (const OrtCustomOp* op : std::initializer_list<const OrtCustomOp*>{
               &attention, &attention_half, &norm, &norm_half})
        domain.Add(op);
      return true;
    }();
    static_cast<void>(added);
    Ort::UnownedSessionOptions(options).Add(domain);
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  }
  return nullptr;
}
