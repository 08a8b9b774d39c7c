// The plugin of TensorRT as its library asks it: shapes, types, refusals, what is kept in an
// engine, and what the kernel is called with. The kernel itself is not run; no TensorRT is needed.
#include <NvInferRuntime.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../src/temporal_attention_cuda.hpp"

using edgereel::TemporalAttentionShape;
using edgereel::gpu::Half;
using edgereel::gpu::Tensors;
using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count);

namespace {

int failures = 0;
std::string said;  // the last error that the plugin told
TemporalAttentionShape called;
Tensors<Half> given;
bool halves;

void check(bool right, const char* what) {
  if (right) return;
  std::printf("%s; it said: %s\n", what, said.c_str());
  ++failures;
}

struct Logger : nvinfer1::ILogger {
  void log(Severity, const char* text) noexcept override { said = text; }
};

struct Finder : nvinfer1::ILoggerFinder {
  nvinfer1::ILogger* findLogger() override { return &logger; }
  Logger logger;
};

// A size that is a number, or -1, and what makes one of others.
struct Size : nvinfer1::IDimensionExpr, nvinfer1::apiv::VDimensionExpr {
  explicit Size(std::int64_t value) : value(value) { mImpl = this; }
  bool isConstant() const noexcept override { return value != -1; }
  std::int64_t getConstantValue() const noexcept override { return value; }
  bool isSizeTensor() const noexcept override { return false; }
  std::int64_t value;
};

struct Builder : nvinfer1::IExprBuilder, nvinfer1::apiv::VExprBuilder {
  Builder() { mImpl = this; }
  const nvinfer1::IDimensionExpr* constant(std::int64_t value) noexcept override {
    return made.emplace_back(std::make_unique<Size>(value)).get();
  }
  const nvinfer1::IDimensionExpr* operation(
      nvinfer1::DimensionOperation what, const nvinfer1::IDimensionExpr& first,
      const nvinfer1::IDimensionExpr& second) noexcept override {
    const auto a = static_cast<const Size&>(first).value,
               b = static_cast<const Size&>(second).value;
    return constant(what == nvinfer1::DimensionOperation::kFLOOR_DIV && a != -1 ? a / b : -1);
  }
  const nvinfer1::IDimensionExpr* declareSizeTensor(
      std::int32_t, const nvinfer1::IDimensionExpr&,
      const nvinfer1::IDimensionExpr&) noexcept override {
    return nullptr;
  }
  std::vector<std::unique_ptr<Size>> made;
};

Dims dims(const std::vector<std::int64_t>& sizes) {
  Dims made = {};
  made.nbDims = int(sizes.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) made.d[i] = sizes[i];
  return made;
}

DynamicPluginTensorDesc tensor(DataType type, const std::vector<std::int64_t>& smallest,
                               const std::vector<std::int64_t>& largest) {
  DynamicPluginTensorDesc made = {};
  made.desc.type = type;
  made.desc.format = nvinfer1::TensorFormat::kLINEAR;
  made.desc.dims = made.max = dims(largest);
  made.min = dims(smallest);
  return made;
}

struct Told {
  std::int32_t heads, interleaved, turned, biased;
};

std::unique_ptr<nvinfer1::IPluginV3> plugin(const Told& told) {
  std::int32_t count = 0;
  auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(getCreators(count)[0]);
  check(count == 1 && std::strcmp(creator->getPluginNamespace(), "edgereel") == 0, "the creator");
  const std::int64_t wide = told.heads;  // a parser may write either width
  const float scale = 0.25f;
  const PluginField fields[] = {{"heads", &wide, PluginFieldType::kINT64, 1},
                                {"interleaved", &told.interleaved, PluginFieldType::kINT32, 1},
                                {"turned", &told.turned, PluginFieldType::kINT32, 1},
                                {"biased", &told.biased, PluginFieldType::kINT32, 1},
                                {"scale", &scale, PluginFieldType::kFLOAT32, 1}};
  const nvinfer1::PluginFieldCollection all = {5, fields};
  return std::unique_ptr<nvinfer1::IPluginV3>(
      creator->createPlugin("the_node", &all, nvinfer1::TensorRTPhase::kBUILD));
}

template <typename Capability>
Capability& as(nvinfer1::IPluginV3& plugin, nvinfer1::PluginCapabilityType type) {
  return *static_cast<Capability*>(plugin.getCapabilityInterface(type));
}

nvinfer1::IPluginV3OneBuild& building(nvinfer1::IPluginV3& it) {
  return as<nvinfer1::IPluginV3OneBuild>(it, nvinfer1::PluginCapabilityType::kBUILD);
}

nvinfer1::IPluginV3OneRuntime& running(nvinfer1::IPluginV3& it) {
  return as<nvinfer1::IPluginV3OneRuntime>(it, nvinfer1::PluginCapabilityType::kRUNTIME);
}

using Sizes = std::vector<std::int64_t>;

// Whether a plugin with tables takes shapes between these two; else what it says.
void configured(const Sizes& smallest, const Sizes& largest, std::int64_t pairs, const char* told) {
  const auto it = plugin({8, 1, 1, 0});
  const auto table = [&](const Sizes& qkv) { return Sizes{qkv[1], pairs}; };
  const DynamicPluginTensorDesc in[] = {tensor(DataType::kHALF, smallest, largest),
                                        tensor(DataType::kFLOAT, table(smallest), table(largest)),
                                        tensor(DataType::kFLOAT, table(smallest), table(largest))};
  said.clear();
  const int result = building(*it).configurePlugin(in, 3, in, 1);
  check((result == 0) == (*told == 0) && said.find(told) != std::string::npos, told);
  if (*told) check(said.find("the_node") != std::string::npos, "the node is named");
}

void refusals() {
  configured({1, 1, 1, 960}, {2, 128, 2560, 960}, 16, "");
  configured({1, 1, 1, 960}, {2, 129, 2560, 960}, 16, "129 frames; the kernel for GPUs takes 1 to");
  configured({1, 1, 1, 961}, {2, 16, 2560, 961}, 16, "qkv is [1, 1, 1, 961]; expected");
  configured({1, 1, 1, 960}, {2, 16, 2560, 960}, 21, "cos is [1, 21]");
  configured({1, 1, 1, 864}, {2, 16, 2560, 864}, 16, "heads of 36 channels");
  check(plugin({0, 1, 0, 0}) == nullptr && said.find("heads is 0") != std::string::npos, "heads");
}

// The shape of the output where most sizes are not known, or what is said.
void shapes(std::int64_t frames, std::int64_t channels, std::int64_t expected, const char* told) {
  const auto it = plugin({8, 1, 0, 0});
  Builder builder;
  const Size sizes[] = {Size(-1), Size(frames), Size(-1), Size(channels)};
  nvinfer1::DimsExprs in = {}, out = {};
  in.nbDims = 4;
  for (int i = 0; i < 4; ++i) in.d[i] = &sizes[i];
  said.clear();
  const int result = building(*it).getOutputShapes(&in, 1, nullptr, 0, &out, 1, builder);
  check((result == 0) == (*told == 0) && said.find(told) != std::string::npos, told);
  if (result == 0)
    check(out.nbDims == 4 && out.d[0] == &sizes[0] && out.d[1] == &sizes[1] &&
              out.d[2] == &sizes[2] && static_cast<const Size*>(out.d[3])->value == expected,
          "the shape of the output");
}

void types() {
  const auto it = plugin({8, 1, 1, 1});
  auto& build = building(*it);
  const auto takes = [&build](std::int32_t position, DataType qkv, DataType type) {
    std::vector<DynamicPluginTensorDesc> all(5, tensor(qkv, {}, {}));
    all[std::size_t(position)].desc.type = type;
    return build.supportsFormatCombination(position, all.data(), 4, 1);
  };
  check(takes(0, DataType::kHALF, DataType::kHALF), "halves");
  check(takes(0, DataType::kFLOAT, DataType::kFLOAT), "floats");
  check(!takes(0, DataType::kBF16, DataType::kBF16), "bfloat16");
  check(takes(3, DataType::kHALF, DataType::kFLOAT), "a bias of floats");
  check(!takes(1, DataType::kHALF, DataType::kHALF), "cosines in half precision");
  check(takes(4, DataType::kHALF, DataType::kHALF), "the output as the input");
  check(!takes(4, DataType::kHALF, DataType::kFLOAT), "the output in another type");
  check(build.getNbOutputs() == 1 && build.getWorkspaceSize(nullptr, 0, nullptr, 0) == 0,
        "outputs");
}

// A clone, made again from what an engine keeps of it, calls the kernel with what it is given.
void calls() {
  const auto first = plugin({8, 0, 1, 1});
  std::unique_ptr<nvinfer1::IPluginV3> copy(first->clone());
  std::int32_t count = 0;
  auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(getCreators(count)[0]);
  std::unique_ptr<nvinfer1::IPluginV3> again(creator->createPlugin(
      "the_node", running(*copy).getFieldsToSerialize(), nvinfer1::TensorRTPhase::kRUNTIME));
  const Sizes sizes[] = {{2, 16, 7, 960}, {16, 20}, {16, 20}, {8, 16, 16}};
  std::vector<nvinfer1::PluginTensorDesc> in;
  for (const Sizes& size : sizes)
    in.push_back(tensor(in.empty() ? DataType::kHALF : DataType::kFLOAT, size, size).desc);
  const float at[5] = {};
  const void* inputs[] = {at, at + 1, at + 2, at + 3};
  float written;
  void* outputs[] = {&written};
  check(running(*again).onShapeChange(in.data(), 4, in.data(), 1) == 0, "the shapes");
  const int result =
      running(*again).enqueue(in.data(), in.data(), inputs, outputs, nullptr, nullptr);
  check(result == 0 && halves, "a call");
  check(called.batch == 2 && called.frames == 16 && called.pixels == 7 && called.heads == 8 &&
            called.width == 40 && called.turned == 40 && !called.interleaved &&
            called.scale == 0.25f,
        "its sizes");
  check(static_cast<const void*>(given.qkv) == at && given.cos == at + 1 && given.sin == at + 2 &&
            given.bias == at + 3 && static_cast<void*>(given.out) == &written,
        "its tensors");
  check(given.in.batch == 16 * 7 * 960 && given.in.frame == 7 * 960 && given.in.pixel == 960 &&
            given.to.frame == 7 * 320,
        "its distances");
}

}  // namespace

namespace edgereel::gpu {

cudaError_t temporal_attention(const TemporalAttentionShape&, const Tensors<float>&, cudaStream_t) {
  halves = false;
  return cudaSuccess;
}

cudaError_t temporal_attention(const TemporalAttentionShape& shape, const Tensors<Half>& tensors,
                               cudaStream_t) {
  called = shape;
  given = tensors;
  halves = true;
  return cudaSuccess;
}

}  // namespace edgereel::gpu

int main() {
  Finder finder;
  setLoggerFinder(&finder);
  refusals();
  shapes(-1, 960, 320, "");
  shapes(16, -1, -1, "");
  shapes(129, 960, 0, "129 frames");
  shapes(16, 100, 0, "qkv is [?, 16, ?, 100]; expected [B, F, S, 3 * C] with C a multiple of 8");
  types();
  calls();
  std::printf("%s, %d failures\n", failures ? "FAILED" : "passed", failures);
  return failures != 0;
}
