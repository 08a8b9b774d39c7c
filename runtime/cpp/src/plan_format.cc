// One line per field, in the order of plan_format.py.
#include "plan_format.hpp"

#include <algorithm>

#include "errors.hpp"
#include "strict_json.hpp"

namespace edgereel_runtime {

const Words kSamplers = {"ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m"};
const Words kSpacings = {"leading", "leading+1", "trailing", "linspace", "adm", "unclip"};

namespace {

const Words kDTypes = {"float32", "float16", "int64", "int32", "uint8", "bool"};
const Words kFinals = {"one", "first"};
const Words kVariances = {"fixed_small", "fixed_small_log", "fixed_large", "learned_range"};

// What an error lists when the last part of its place is one of these keys.
const std::map<std::string, Words> kWords = {
    {"op", {"tokenize", "noise", "run", "denoise", "renoise"}},
    {"type", {"text", "int", "float", "choice", "video"}},
    {"dtype", kDTypes},
    {"sampler", kSamplers},
    {"spacing", kSpacings},
    {"filter", {"canny"}},
    {"final", kFinals},
    {"variance", kVariances},
    {"precision", {"fp32"}},
};

using Type = Json::Type;

}  // namespace

// The templates of strict_json.hpp find these overloads, so they are in no nameless namespace.
template <typename T>
void read(const Json& json, const At& at, std::variant<T, Ref>& out) {
  if (json.type == Type::kObject) {
    read(json, at, out.template emplace<Ref>());
  } else {
    read(json, at.or_else("object"), out.template emplace<T>());
  }
}

static void read(const Json& json, const At& at, Axis& out) {
  if (json.type == Type::kString) {
    out = json.string;
  } else {
    read(json, at.or_else("str"), out.emplace<Int>());
  }
}

static Field need(const char* name, Word& out, const Words& words) {
  return {name, true, [&](const Json& json, const At& at) {
            read(json, at, out);
            if (auto* word = std::get_if<std::string>(&out)) {
              read_chosen(json, at, words, *word);
            }
          }};
}

static Field spacings(Named<std::string>& out) {
  return {"spacings", false, [&](const Json& json, const At& at) {
            if (json.type != Type::kObject) mistyped(json, at, "object");
            for (const auto& [key, value] : json.object) {
              if (std::find(kSamplers.begin(), kSamplers.end(), key) == kSamplers.end()) {
                misread(at, "Invalid enum value " + shown(key));
              }
              auto& entry = out.entries.emplace_back(key, "");
              read_chosen(value, at / key, kSpacings, entry.second);
            }
          }};
}

static void read(const Json& json, const At& at, Ref& out) {
  read_fields(json, at, {need("param", out.param)});
}

static void read(const Json& json, const At& at, TensorSpec& out) {
  read_fields(json, at, {need("dtype", out.dtype, kDTypes), need("shape", out.shape)});
}

static void read(const Json& json, const At& at, GraphSpec& out) {
  static const Words kPrecisions = {"fp32"};
  read_fields(json, at,
              {need("file", out.file), need("inputs", out.inputs), need("outputs", out.outputs),
               may("weights", out.weights), may("golden", out.golden),
               may("precision", out.precision, kPrecisions), may("activations", out.activations),
               may("activations_kernels", out.activations_kernels), may("flops", out.flops),
               may("traffic", out.traffic)});
}

static void read(const Json& json, const At& at, ScheduleSpec& out) {
  read_fields(json, at, {need("file", out.file)});
}

static void read(const Json& json, const At& at, TokenizerSpec& out) {
  read_fields(json, at,
              {need("file", out.file), need("length", out.length), need("pad_id", out.pad_id)});
}

// The tag of a struct that is one of several.
static std::string tag_of(const Json& json, const At& at, const std::string& tag) {
  if (json.type != Type::kObject) mistyped(json, at.here(), "object");
  const Json* found = json.find(tag);
  if (found == nullptr) misread(at, "Object missing required field `" + tag + "`");
  const At place = at.field(tag);
  if (found->type != Type::kString) {
    static const char* const kPython[] = {"NoneType", "bool", "int", "float",
                                          "str",      "list", "dict"};
    const std::string kind = kPython[static_cast<int>(found->type)];
    misread(place, "Expected `str`, got `" + kind + "`");
  }
  const Words& words = kWords.at(tag);
  if (std::find(words.begin(), words.end(), found->string) == words.end()) {
    misread(place, "Invalid value " + shown(found->string));
  }
  return found->string;
}

template <typename T>
static Field number(const char* name, std::optional<Scalar>& out) {
  return {name, false, [&out](const Json& json, const At& at) {
            std::optional<T> value;
            read(json, at, value);
            if (value) out = *value;
          }};
}

template <typename T>
static void add_range(std::vector<Field>& fields, Param& out) {
  fields.push_back(number<T>("default", out.number));
  fields.push_back(number<T>("min", out.min));
  fields.push_back(number<T>("max", out.max));
}

static void add_video(std::vector<Field>& fields, Param& out) {
  static const Words kFilters = {"canny"};
  for (Field& field : std::vector<Field>{
           may("start", out.start), may("end", out.end), may("fps", out.fps),
           may("frames", out.frames), may("last", out.last), may("longest", out.longest),
           may("multiple", out.multiple), may("height", out.height), may("width", out.width),
           may("filter", out.filter, kFilters)}) {
    fields.push_back(std::move(field));
  }
}

static void read(const Json& json, const At& at, Param& out) {
  const std::string type = tag_of(json, at, "type");
  std::vector<Field> fields;
  if (type == "choice") fields.push_back(need("choices", out.choices));
  fields.push_back(may("description", out.description));
  fields.push_back(may("aliases", out.aliases));
  if (type == "text" || type == "choice") {
    out.type = type == "text" ? ParamType::kText : ParamType::kChoice;
    fields.push_back(may("default", out.word));
  } else if (type == "int") {
    out.type = ParamType::kInt;
    add_range<Int>(fields, out);
    fields.push_back(may("multiple", out.multiple));
  } else if (type == "float") {
    out.type = ParamType::kFloat;
    add_range<double>(fields, out);
  } else {
    out.type = ParamType::kVideo;
    add_video(fields, out);
  }
  read_fields(json, at, fields, "type");
}

static void read(const Json& json, const At& at, Size& out) {
  read_fields(json, at,
              {may("param", out.param), may("symbol", out.symbol), may("times", out.times),
               may("plus", out.plus), may("divide", out.divide)});
}

static void read(const Json& json, const At& at, Row& out) {
  read_fields(json, at,
              {may("param", out.param), may("append", out.append), may("text", out.text)});
}

static void read(const Json& json, const At& at, Weight& out) {
  read_fields(json, at, {may("const", out.constant), may("params", out.params)});
}

static void read(const Json& json, const At& at, Guidance& out) {
  read_fields(json, at, {need("rows", out.rows), need("weights", out.weights)});
}

static void read(const Json& json, const At& at, Range& out) {
  read_fields(json, at, {need("from", out.from), may("to", out.to)});
}

static std::vector<Field> fields_of(Tokenize& op) {
  return {need("tokenizer", op.tokenizer), need("rows", op.rows), need("ids", op.ids),
          may("mask", op.mask), may("row", op.row)};
}

static std::vector<Field> fields_of(Noise& op) {
  return {need("value", op.value), may("shared", op.shared)};
}

static std::vector<Field> fields_of(Run& op) {
  return {need("graph", op.graph), need("inputs", op.inputs), need("outputs", op.outputs)};
}

static std::vector<Field> fields_of(Denoise& op) {
  return {need("graph", op.graph),
          need("x", op.x),
          need("out", op.out),
          need("conditions", op.conditions),
          need("schedule", op.schedule),
          need("sampler", op.sampler, kSamplers),
          need("spacing", op.spacing, kSpacings),
          need("steps", op.steps),
          need("eta", op.eta),
          need("final", op.final, kFinals),
          need("variance", op.variance, kVariances),
          may("guidance", op.guidance),
          may("range", op.range),
          may("noise", op.noise),
          may("shared_noise", op.shared_noise),
          spacings(op.spacings)};
}

static std::vector<Field> fields_of(Renoise& op) {
  return {need("x", op.x),
          need("out", op.out),
          need("schedule", op.schedule),
          need("from", op.from),
          need("to", op.to),
          need("noise", op.noise),
          may("shared_noise", op.shared_noise),
          may("along", op.along)};
}

static void read(const Json& json, const At& at, Op& out) {
  const std::string op = tag_of(json, at, "op");
  if (op == "tokenize") out = Tokenize();
  if (op == "noise") out = Noise();
  if (op == "run") out = Run();
  if (op == "denoise") out = Denoise();
  if (op == "renoise") out = Renoise();
  std::visit([&](auto& one) { read_fields(json, at, fields_of(one), "op"); }, out);
}

static void read(const Json& json, const At& at, Window& out) {
  read_fields(json, at,
              {need("symbol", out.symbol), need("size", out.size), may("overlap", out.overlap),
               may("lead", out.lead)});
}

static void read(const Json& json, const At& at, Each& out) {
  read_fields(json, at, {need("slices", out.slices), need("windows", out.windows)});
}

static void read(const Json& json, const At& at, Stage& out) {
  read_fields(json, at,
              {need("name", out.name), may("each", out.each), need("ops", out.ops),
               may("collect", out.collect)});
}

static void read(const Json& json, const At& at, Output& out) {
  read_fields(json, at, {need("value", out.value), need("fps", out.fps)});
}

static void read(const Json& json, const At& at, Mode& out) {
  read_fields(json, at,
              {may("description", out.description), need("params", out.params),
               may("sizes", out.sizes), may("rows", out.rows), need("values", out.values),
               need("stages", out.stages), need("output", out.output)});
}

static Document document(const Json& json) {
  Document out;
  read_fields(json, {},
              {need("format", out.format), need("name", out.name), need("system", out.system),
               may("description", out.description), need("files", out.files),
               need("graphs", out.graphs), may("schedules", out.schedules),
               may("tokenizers", out.tokenizers), need("modes", out.modes)});
  return out;
}

Document read_document(const Json& json) {
  try {
    return document(json);
  } catch (const Misread& found) {
    const std::string where = found.place.empty() ? "plan.json" : found.place;
    const auto words = kWords.find(where.substr(where.rfind('.') + 1));
    if (words != kWords.end() && found.problem.find("Invalid") != std::string::npos) {
      wrong(where, found.problem, "one of " + joined(words->second));
    }
    wrong(where, found.problem);
  }
}

}  // namespace edgereel_runtime
