// edgereel::TemporalAttention for ONNX Runtime's CUDA provider, queued on the session's stream.
//
// A library of its own: in a session that also had the operators for CPUs, group norms would be
// computed there.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "ort_operators.hpp"
#include "temporal_attention_cuda.hpp"

namespace edgereel::ort {
namespace {

template <typename T>
struct AttentionKernel {
  static constexpr const char* kProvider = "CUDAExecutionProvider";

  explicit AttentionKernel(const OrtKernelInfo* info) : node(info, gpu::unsupported) {}

  void Compute(OrtKernelContext* raw) {
    const Ort::KernelContext context(raw);
    AttentionNode::Given given = node.read(context);
    given.sizes[3] /= 3;
    Ort::UnownedValue out = context.GetOutput(0, given.sizes);
    if (std::count(given.sizes.begin(), given.sizes.end(), 0) > 0) return;
    gpu::Tensors<T> tensors = {};
    tensors.qkv = given.qkv.template GetTensorData<T>();
    tensors.cos = given.tables[0];
    tensors.sin = given.tables[1];
    tensors.bias = given.tables[2];
    tensors.out = out.GetTensorMutableData<T>();
    gpu::set_packed(given.shape, tensors);
    const auto stream = static_cast<cudaStream_t>(context.GetGPUComputeStream());
    const cudaError_t error = gpu::temporal_attention(given.shape, tensors, stream);
    if (error != cudaSuccess) refuse(node.name, "CUDA says ", cudaGetErrorString(error));
  }

 private:
  AttentionNode node;
};

}  // namespace
}  // namespace edgereel::ort

extern "C" EDGEREEL_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                     const OrtApiBase* base) {
  using namespace edgereel;
  return ort::add_operators(options, base, [] {
    static const ort::AttentionOp<float, ort::AttentionKernel<float>> attention;
    static const ort::AttentionOp<gpu::Half, ort::AttentionKernel<gpu::Half>> attention_half;
    return std::vector<const OrtCustomOp*>{&attention, &attention_half};
  });
}
