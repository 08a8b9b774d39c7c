// The structs of plan.json, format 1, without behaviour; the same as in plan_format.py.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "json.hpp"
#include "named.hpp"
#include "words.hpp"

namespace edgereel_runtime {

constexpr int kFormat = 1;

// `{"param": name}`: the value a user gave for that param.
struct Ref {
  std::string param;
};
using Number = std::variant<double, Ref>;
using Whole = std::variant<Int, Ref>;
using Word = std::variant<std::string, Ref>;
using Flag = std::variant<bool, Ref>;  // a param is an int, and 0 is no

using Axis = std::variant<Int, std::string>;
using Shape = std::vector<Axis>;

struct TensorSpec {
  std::string dtype;
  Shape shape;
};

struct GraphSpec {
  std::string file;
  Named<TensorSpec> inputs, outputs;
  Words weights;
  std::optional<std::string> golden, precision;
  std::vector<Named<double>> activations, activations_kernels;
  Named<double> flops, traffic;
};

struct ScheduleSpec {
  std::string file;
};

struct TokenizerSpec {
  std::string file;
  Int length = 0, pad_id = 0;
};

enum class ParamType { kText, kInt, kFloat, kChoice, kVideo };

// One struct for all types; what a type does not have stays empty.
struct Param {
  ParamType type = ParamType::kText;
  std::string description;
  Words aliases;
  std::optional<std::string> word;         // default of text and choice
  std::optional<Scalar> number, min, max;  // default and range of int and float
  Int multiple = 1;                        // of int and video
  Words choices;
  std::optional<Number> start, end, fps;  // of video, as all below
  std::optional<Whole> frames, longest, height, width;
  bool last = false;
  std::optional<std::string> filter;

  bool numeric() const { return type == ParamType::kInt || type == ParamType::kFloat; }
  bool required() const { return !word && !number; }
};

struct Size {
  std::optional<std::string> param, symbol;
  Int times = 1, plus = 0, divide = 1;
};

struct Row {
  std::optional<std::string> param;
  std::string append;
  std::optional<std::string> text;
};

struct Tokenize {
  std::string tokenizer, rows, ids;
  std::optional<std::string> mask, row;
};

struct Noise {
  std::string value;
  Flag shared = false;
};

struct Run {
  std::string graph;
  Named<std::string> inputs, outputs;
};

struct Weight {
  double constant = 0;
  Named<double> params;
};

struct Guidance {
  std::string rows;
  std::vector<Weight> weights;
};

struct Range {
  Number from;
  std::optional<Number> to;
};

struct Denoise {
  std::string graph, x, out;
  Named<std::string> conditions;
  std::string schedule;
  Word sampler, spacing;
  Whole steps;
  Number eta;
  std::string final, variance;
  std::optional<Guidance> guidance;
  std::optional<Range> range;
  std::optional<std::string> noise;
  Flag shared_noise = false;
  Named<std::string> spacings;
};

struct Renoise {
  std::string x, out, schedule;
  std::optional<Whole> from;
  Whole to;
  std::string noise;
  Flag shared_noise = false;
  std::optional<std::string> along;
};

using Op = std::variant<Tokenize, Noise, Run, Denoise, Renoise>;

struct Window {
  std::string symbol;
  Whole size;
  Whole overlap = Int(0);
  Int lead = 0;
};

struct Each {
  Named<std::string> slices;
  std::vector<Window> windows;
};

struct Stage {
  std::string name;
  std::optional<Each> each;
  std::vector<Op> ops;
  Named<std::string> collect;
};

struct Output {
  std::string value;
  Number fps;
};

struct Mode {
  std::string description;
  Named<Param> params;
  Named<Size> sizes;
  Named<std::vector<Row>> rows;
  Named<TensorSpec> values;
  std::vector<Stage> stages;
  Output output;
};

struct Document {
  Int format = 0;
  std::string name, system, description;
  Named<std::string> files;
  Named<GraphSpec> graphs;
  Named<ScheduleSpec> schedules;
  Named<TokenizerSpec> tokenizers;
  Named<Mode> modes;
};

// The words of the format, in the order that messages list them in.
extern const Words kSamplers, kSpacings;

// The document in these structs; throws Error naming the place. The rules between them are in
// plan_check.cc.
Document read_document(const Json& json);

}  // namespace edgereel_runtime
