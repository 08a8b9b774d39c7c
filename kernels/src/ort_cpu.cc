// The operators of domain `edgereel` for ONNX Runtime: a custom-op library. Here, those on a CPU.
//
// A graph that uses them has their definitions in standard operators beside them, so it runs
// without this library too. Work is spread over the threads of the session.
#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "cpu.hpp"
#include "ort_operators.hpp"

namespace {

using edgereel::Sizes;
using edgereel::TemporalAttentionShape;
using edgereel::text;
using edgereel::ort::AttentionNode;
using edgereel::ort::AttentionOp;
using edgereel::ort::kType;
using edgereel::ort::refuse;

constexpr std::int64_t kTiles = 16;  // of a thread at a time

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

// `run(part)` for parts 0 .. count - 1, on the threads of the session.
template <typename Run>
void spread(OrtKernelContext* context, std::int64_t count, const Run& run) {
  Ort::KernelContext(context).ParallelFor(
      [](void* data, std::size_t part) { (*static_cast<const Run*>(data))(std::int64_t(part)); },
      std::size_t(count), 0, const_cast<Run*>(&run));
}

template <typename T>
struct AttentionKernel {
  static constexpr const char* kProvider = nullptr;  // CPUs

  explicit AttentionKernel(const OrtKernelInfo* info)
      : node(info, [](const TemporalAttentionShape&) { return std::string(); }) {}

  void Compute(OrtKernelContext* raw) {
    const Ort::KernelContext context(raw);
    AttentionNode::Given given = node.read(context);
    const TemporalAttentionShape& shape = given.shape;
    const auto [cos, sin, bias] = given.tables;
    const std::vector<float> cosines = by_frame(cos, 1, shape.frames, shape.turned / 2);
    const std::vector<float> sines = by_frame(sin, 1, shape.frames, shape.turned / 2);
    const std::vector<float> biases = by_frame(bias, shape.heads, shape.frames, shape.frames);
    const bool biased = bias != nullptr;
    given.sizes[3] /= 3;
    Ort::UnownedValue out = context.GetOutput(0, given.sizes);
    const T* from = given.qkv.GetTensorData<T>();
    T* to = out.GetTensorMutableData<T>();
    const std::int64_t pixels = kTiles * edgereel::tile_of(shape);
    const std::int64_t parts = (shape.pixels + pixels - 1) / pixels;
    spread(raw, shape.batch * parts, [&](std::int64_t part) {
      std::vector<float> scratch(edgereel::temporal_attention_scratch(shape));
      const std::int64_t start = part % parts * pixels,
                         end = std::min(start + pixels, shape.pixels);
      kAttention<T>(shape, from, cosines.data(), sines.data(), biased ? biases.data() : nullptr, to,
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

  AttentionNode node;
};

template <typename T>
struct NormKernel {
  static constexpr const char* kName = "GroupNorm";

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

// Attention without a mask, by ONNX Runtime's operator that works in blocks, MultiHeadAttention,
// every head as a row of its batch. In half precision, which that has not, by the standard's.
template <typename T>
struct PlainAttentionKernel {
  static constexpr const char* kName = "Attention";
  static constexpr bool kBlocks = std::is_same_v<T, float>;

  explicit PlainAttentionKernel(const OrtKernelInfo* info)
      : node(Ort::ConstKernelInfo(info).GetNodeName()) {
    const char* names[] = {kBlocks ? "T" : "T1", "T2"};
    const ONNXTensorElementDataType types[] = {kType<T>, kType<T>};
    const std::int64_t heads = 1;
    const Ort::OpAttr head("num_heads", &heads, 1, ORT_OP_ATTR_INT);
    op = kBlocks ? Ort::Op::Create(info, "MultiHeadAttention", "com.microsoft", 1, names, types, 1,
                                   &head, 1, 3, 1)
                 : Ort::Op::Create(info, "Attention", "", 23, names, types, 2, nullptr, 0, 3, 1);
  }

  void Compute(OrtKernelContext* raw) {
    const Ort::KernelContext context(raw);
    Sizes sizes[3];
    for (std::size_t i = 0; i < 3; ++i) {
      sizes[i] = context.GetInput(i).GetTensorTypeAndShapeInfo().GetShape();
      if (sizes[i].size() != 4)
        refuse(node, "q, k or v is ", text(sizes[i]), "; expected [B, heads, S, D]");
    }
    const Sizes out = {sizes[0][0], sizes[0][1], sizes[0][2], sizes[2][3]};
    const Ort::UnownedValue y = context.GetOutput(0, out);
    if (y.GetTensorTypeAndShapeInfo().GetElementCount() == 0) return;
    Ort::Value inputs[3] = {Ort::Value(nullptr), Ort::Value(nullptr), Ort::Value(nullptr)};
    for (std::size_t i = 0; i < 3; ++i)
      inputs[i] = seen(context.GetInput(i).GetTensorData<T>(), sizes[i]);
    Ort::Value output = seen(y.GetTensorData<T>(), out);
    op.Invoke(raw, inputs, 3, &output, 1);
  }

 private:
  // A tensor with these contents, as the operator takes it.
  static Ort::Value seen(const T* from, Sizes sizes) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    if (kBlocks) sizes = {sizes[0] * sizes[1], sizes[2], sizes[3]};
    std::size_t bytes = sizeof(T);
    for (const std::int64_t size : sizes) bytes *= std::size_t(size);
    return Ort::Value::CreateTensor(memory, const_cast<T*>(from), bytes, sizes.data(), sizes.size(),
                                    kType<T>);
  }

  std::string node;
  Ort::Op op{nullptr};
};

// An operator of three inputs and an output of one type.
template <typename T, template <typename> class Kernel>
struct ThreeInputOp : Ort::CustomOpBase<ThreeInputOp<T, Kernel>, Kernel<T>> {
  void* CreateKernel(const OrtApi&, const OrtKernelInfo* info) const { return new Kernel<T>(info); }
  const char* GetName() const { return Kernel<T>::kName; }
  std::size_t GetInputTypeCount() const { return 3; }
  ONNXTensorElementDataType GetInputType(std::size_t) const { return kType<T>; }
  std::size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(std::size_t) const { return kType<T>; }
};

}  // namespace

extern "C" EDGEREEL_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                     const OrtApiBase* base) {
  return edgereel::ort::add_operators(options, base, [] {
    static const AttentionOp<float, AttentionKernel<float>> attention;
    static const AttentionOp<std::uint16_t, AttentionKernel<std::uint16_t>> attention_half;
    static const ThreeInputOp<float, PlainAttentionKernel> plain;
    static const ThreeInputOp<std::uint16_t, PlainAttentionKernel> plain_half;
    static const ThreeInputOp<float, NormKernel> norm;
    static const ThreeInputOp<std::uint16_t, NormKernel> norm_half;
    return std::vector<const OrtCustomOp*>{&attention,  &attention_half, &plain,
                                           &plain_half, &norm,           &norm_half};
  });
}
