// edgereel::TemporalAttention for TensorRT and TensorRT-RTX: a plugin library.
//
// Their registry loads it (IPluginRegistry::loadLibrary) and asks for the creators; nothing here is
// linked to either library, so one file serves both. A node has only the inputs that there are, and
// attributes `turned` (cos and sin) and `biased` (bias) that say which.
#include <NvInferRuntime.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "attention_inputs.hpp"
#include "temporal_attention_cuda.hpp"

namespace {

using edgereel::AttentionAttributes;
using edgereel::Sizes;
using edgereel::TemporalAttentionShape;
using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

nvinfer1::ILoggerFinder* loggers = nullptr;

// Tells the library's logger; the result is what a method returns that failed.
int refuse(const std::string& node, const std::string& what) {
  nvinfer1::ILogger* logger = loggers ? loggers->findLogger() : nullptr;
  if (logger)
    logger->log(nvinfer1::ILogger::Severity::kERROR,
                edgereel::sentence("TemporalAttention ", node, ": ", what).c_str());
  return -1;
}

Sizes sizes_of(const Dims& dims) {
  return Sizes(dims.d, dims.d + (dims.nbDims < 0 ? 0 : dims.nbDims));
}

// An integer of a field, which the parser writes in 32 bits.
std::int64_t integer(const PluginField& field) {
  if (field.type == PluginFieldType::kINT64) return *static_cast<const std::int64_t*>(field.data);
  return *static_cast<const std::int32_t*>(field.data);
}

struct Attributes {
  std::int32_t heads = 0, interleaved = 0, turned = 0, biased = 0;
  float scale = 0;
};

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  Plugin(std::string node, const Attributes& attributes)
      : node(std::move(node)), attributes(attributes) {
    const auto whole = [](const char* name, const std::int32_t& value) {
      return PluginField(name, &value, PluginFieldType::kINT32, 1);
    };
    const Attributes& a = this->attributes;
    fields = {whole("heads", a.heads), whole("interleaved", a.interleaved),
              whole("turned", a.turned), whole("biased", a.biased),
              PluginField("scale", &a.scale, PluginFieldType::kFLOAT32, 1)};
    collection = {int(fields.size()), fields.data()};
  }
  Plugin(const Plugin&) = delete;
  Plugin& operator=(const Plugin&) = delete;

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override {
    if (type == nvinfer1::PluginCapabilityType::kBUILD)
      return static_cast<IPluginV3OneBuild*>(this);
    if (type == nvinfer1::PluginCapabilityType::kRUNTIME)
      return static_cast<IPluginV3OneRuntime*>(this);
    return static_cast<IPluginV3OneCore*>(this);
  }
  IPluginV3* clone() noexcept override { return new Plugin(node, attributes); }

  const char* getPluginName() const noexcept override { return "TemporalAttention"; }
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override { return "edgereel"; }

  std::int32_t getNbOutputs() const noexcept override { return 1; }

  std::int32_t getOutputDataTypes(DataType* outputs, std::int32_t, const DataType* inputs,
                                  std::int32_t) const noexcept override {
    outputs[0] = inputs[0];
    return 0;
  }

  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t count,
                               const nvinfer1::DimsExprs*, std::int32_t,
                               nvinfer1::DimsExprs* outputs, std::int32_t,
                               nvinfer1::IExprBuilder& builder) noexcept override {
    std::vector<Sizes> sizes;
    for (std::int32_t i = 0; i < count; ++i) {
      sizes.emplace_back();
      for (std::int32_t j = 0; j < inputs[i].nbDims; ++j) {
        const nvinfer1::IDimensionExpr& size = *inputs[i].d[j];
        sizes.back().push_back(size.isConstant() ? size.getConstantValue() : -1);
      }
    }
    TemporalAttentionShape shape;
    if (!read(sizes, shape)) return -1;
    outputs[0] = inputs[0];
    outputs[0].d[3] = builder.operation(nvinfer1::DimensionOperation::kFLOOR_DIV, *inputs[0].d[3],
                                        *builder.constant(3));
    return 0;
  }

  bool supportsFormatCombination(std::int32_t position,
                                 const nvinfer1::DynamicPluginTensorDesc* all, std::int32_t inputs,
                                 std::int32_t) noexcept override {
    const nvinfer1::PluginTensorDesc& it = all[position].desc;
    if (it.format != nvinfer1::TensorFormat::kLINEAR) return false;
    if (position == 0) return it.type == DataType::kFLOAT || it.type == DataType::kHALF;
    return it.type == (position < inputs ? DataType::kFLOAT : all[0].desc.type);
  }

  // The smallest and the largest shapes that there will be.
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t count,
                               const nvinfer1::DynamicPluginTensorDesc*,
                               std::int32_t) noexcept override {
    for (const Dims nvinfer1::DynamicPluginTensorDesc::* which :
         {&nvinfer1::DynamicPluginTensorDesc::min, &nvinfer1::DynamicPluginTensorDesc::max}) {
      std::vector<Sizes> sizes;
      for (std::int32_t i = 0; i < count; ++i) sizes.push_back(sizes_of(in[i].*which));
      TemporalAttentionShape shape;
      if (!read(sizes, shape)) return -1;
    }
    return 0;
  }

  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, std::int32_t count,
                             const nvinfer1::PluginTensorDesc*, std::int32_t) noexcept override {
    std::vector<Sizes> sizes;
    for (std::int32_t i = 0; i < count; ++i) sizes.push_back(sizes_of(in[i].dims));
    TemporalAttentionShape shape;
    return read(sizes, shape) ? 0 : -1;
  }

  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc*,
                       const void* const* inputs, void* const* outputs, void*,
                       cudaStream_t stream) noexcept override {
    std::vector<Sizes> sizes;
    for (std::int32_t i = 0; i < inputs_of(attributes); ++i) sizes.push_back(sizes_of(in[i].dims));
    TemporalAttentionShape shape;
    if (!read(sizes, shape)) return -1;
    const cudaError_t error = in[0].type == DataType::kHALF
                                  ? launch<edgereel::gpu::Half>(shape, inputs, outputs, stream)
                                  : launch<float>(shape, inputs, outputs, stream);
    return error == cudaSuccess ? 0 : refuse(node, cudaGetErrorString(error));
  }

  IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
    return clone();
  }

  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    return &collection;
  }

 private:
  static std::int32_t inputs_of(const Attributes& a) {
    return 1 + (a.turned ? 2 : 0) + (a.biased ? 1 : 0);
  }

  // Whether the kernel takes inputs of these sizes; tells why not.
  bool read(const std::vector<Sizes>& sizes, TemporalAttentionShape& shape) const {
    std::string refusal;
    if (std::int32_t(sizes.size()) != inputs_of(attributes)) {
      refusal = edgereel::sentence(sizes.size(), " inputs; expected ", inputs_of(attributes));
    } else {
      const AttentionAttributes told = {attributes.heads, attributes.interleaved != 0,
                                        attributes.scale};
      const bool turned = attributes.turned != 0;
      refusal = edgereel::read_shape(
          told,
          {&sizes[0], turned ? &sizes[1] : nullptr, turned ? &sizes[2] : nullptr,
           attributes.biased ? &sizes.back() : nullptr},
          shape);
      if (refusal.empty()) refusal = edgereel::gpu::unsupported(shape);
    }
    return refusal.empty() || refuse(node, refusal) == 0;
  }

  template <typename T>
  cudaError_t launch(const TemporalAttentionShape& shape, const void* const* inputs,
                     void* const* outputs, cudaStream_t stream) const {
    const auto table = [inputs](int index) { return static_cast<const float*>(inputs[index]); };
    edgereel::gpu::Tensors<T> tensors = {};
    tensors.qkv = static_cast<const T*>(inputs[0]);
    tensors.out = static_cast<T*>(outputs[0]);
    if (attributes.turned) tensors.cos = table(1), tensors.sin = table(2);
    if (attributes.biased) tensors.bias = table(attributes.turned ? 3 : 1);
    edgereel::gpu::set_packed(shape, tensors);
    return edgereel::gpu::temporal_attention(shape, tensors, stream);
  }

  std::string node;
  Attributes attributes;
  std::vector<PluginField> fields;
  nvinfer1::PluginFieldCollection collection;
};

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  const char* getPluginName() const noexcept override { return "TemporalAttention"; }
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override { return "edgereel"; }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection; }

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* given,
                                    nvinfer1::TensorRTPhase) noexcept override {
    Attributes told;
    for (std::int32_t i = 0; i < given->nbFields; ++i) {
      const PluginField& field = given->fields[i];
      const auto is = [&field](const char* which) { return std::strcmp(field.name, which) == 0; };
      if (is("heads")) told.heads = std::int32_t(integer(field));
      if (is("interleaved")) told.interleaved = std::int32_t(integer(field));
      if (is("turned")) told.turned = std::int32_t(integer(field));
      if (is("biased")) told.biased = std::int32_t(integer(field));
      if (is("scale")) told.scale = *static_cast<const float*>(field.data);
    }
    if (told.heads < 1) {
      refuse(name, edgereel::sentence("heads is ", told.heads, "; expected 1 or more"));
      return nullptr;
    }
    return new Plugin(name, told);
  }

 private:
  const PluginField fields[5] = {{"heads", nullptr, PluginFieldType::kINT32, 1},
                                 {"interleaved", nullptr, PluginFieldType::kINT32, 1},
                                 {"turned", nullptr, PluginFieldType::kINT32, 1},
                                 {"biased", nullptr, PluginFieldType::kINT32, 1},
                                 {"scale", nullptr, PluginFieldType::kFLOAT32, 1}};
  const nvinfer1::PluginFieldCollection collection = {5, fields};
};

}  // namespace

#ifdef _WIN32
#define EDGEREEL_EXPORT __declspec(dllexport)
#else
#define EDGEREEL_EXPORT __attribute__((visibility("default")))
#endif

// What IPluginRegistry::loadLibrary looks for.
extern "C" EDGEREEL_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  loggers = finder;
}

extern "C" EDGEREEL_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(
    std::int32_t& count) {
  static Creator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}
