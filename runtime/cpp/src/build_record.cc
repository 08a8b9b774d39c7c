#include "build_record.hpp"

#include <algorithm>

#include "strict_json.hpp"

namespace edgereel_runtime {

// The overloads are found by the templates of strict_json.hpp.
static void read(const Json& json, const At& at, std::array<Dims, 3>& out) {
  if (json.type != Json::Type::kArray) mistyped(json, at, "array");
  if (json.array.size() != out.size()) misread(at, "Expected `array` of length 3");
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::vector<Int> sizes;
    read(json.array[i], at[i], sizes);
    for (Int size : sizes) {
      out[i].push_back(static_cast<std::int64_t>(std::min<Int>(size, INT64_MAX)));
    }
  }
}

static void read(const Json& json, const At& at, Compiler& out) {
  static const Words kLibraries = {"tensorrt", "tensorrt_rtx"};
  read_fields(json, at, {need("name", out.name, kLibraries), need("version", out.version)});
}

// A weight that can be replaced, which is not done here.
struct Refit {
  std::string initializer, file, dtype;
  Words parts;
  std::vector<Int> shape;
  bool transposed = false;
  Int offset = 0;
};

static void read(const Json& json, const At& at, Refit& out) {
  static const Words kTypes = {"float16", "float32"};
  read_fields(json, at,
              {need("initializer", out.initializer), need("parts", out.parts),
               need("shape", out.shape), need("transposed", out.transposed), need("file", out.file),
               need("offset", out.offset), need("dtype", out.dtype, kTypes)});
}

static void read(const Json& json, const At& at, BuiltEngine& out) {
  static const Words kPrecisions = {"fp16", "fp32"};
  Int number;
  Named<Refit> refit;
  Named<std::string> measured;
  std::optional<double> largest;
  double seconds;
  Named<Int> types;
  Words attention;
  Named<std::string> kept;
  read_fields(json, at,
              {need("file", out.file), need("sha256", out.sha256), need("bytes", number),
               need("source", out.source), need("precision", out.precision, kPrecisions),
               need("profiles", out.profiles), need("nodes", number), need("parameters", number),
               need("types", types), need("weights_bytes", out.weights_bytes),
               need("activation_bytes", out.activation_bytes), need("seconds", seconds),
               need("peak_rss_bytes", number), may("decomposed_attention", attention),
               may("kept_float32", kept), may("measured", measured),
               may("largest_float16", largest), may("refit", refit)});
}

// A number, a text or a list of texts.
static Field options() {
  return {"options", true, [](const Json& json, const At& at) {
            if (json.type != Json::Type::kObject) mistyped(json, at, "object");
            for (const auto& [key, value] : json.object) {
              Words words;
              Int number;
              if (value.type == Json::Type::kString) continue;
              if (value.type == Json::Type::kArray) {
                read(value, at / key, words);
              } else {
                read(value, (at / key).or_else("array").or_else("str"), number);
              }
            }
          }};
}

Record read_record(const Json& json) {
  static const Words kBackends = {"trt"};
  Record out;
  std::string backend, recipe;
  std::optional<std::string> device;
  read_fields(
      json, {},
      {need("format", out.format), need("key", out.key), need("backend", backend, kBackends),
       need("library", out.library), need("compute_capabilities", out.compute_capabilities),
       options(), need("recipe", recipe), need("graphs", out.graphs), may("device", device),
       may("plugin", out.plugin)});
  return out;
}

}  // namespace edgereel_runtime
