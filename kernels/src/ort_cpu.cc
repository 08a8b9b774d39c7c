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

extern "C" EDGEREEL_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                     const OrtApiBase* base) {
  return edgereel::ort::add_operators(options, base, [] {
    static const AttentionOp<float, AttentionKernel<float>> attention;
    static const AttentionOp<std::uint16_t, AttentionKernel<std::uint16_t>> attention_half;
    static const NormOp<float> norm;
    static const NormOp<std::uint16_t> norm_half;
    return std::vector<const OrtCustomOp*>{&attention, &attention_half, &norm, &norm_half};
  });
}
