#include "plan_start.hpp"

#include <algorithm>

namespace edgereel_runtime {
namespace {

// A numeric param that is declared as a value is that number, repeated to the shape.
void check_value(const std::string& place, const Param& param, const std::string& dtype) {
  bool good = param.numeric() && dtype == "float32";
  if (param.type == ParamType::kInt && (dtype == "int32" || dtype == "int64")) {
    const Int limit = Int(1) << (dtype == "int32" ? 31 : 63);
    good = param.min && param.max && std::get<Int>(*param.min) >= -limit &&
           std::get<Int>(*param.max) < limit;
  }
  if (!good) {
    wrong(place, "the param of that name cannot be " + dtype,
          "float32 for a numeric param, or int64 or int32 for an int param in that range");
  }
}

template <typename T>
void check_field(Scope& scope, const std::string& place, const std::optional<T>& number,
                 Bound bound, bool zero_says_null) {
  if (!number) return;
  if (zero_says_null && std::holds_alternative<Ref>(*number)) bound.least = Int(0);
  scope.number(place, *number, bound);
}

// A video is declared as frames, and its numbers are possible ones.
void check_video(Scope& scope, const std::string& place, const std::string& name,
                 const Param& param) {
  const std::string at = place + ".params." + name;
  const TensorSpec& spec = scope.declared(at, name);
  if (spec.dtype != "uint8" || spec.shape.size() != 4 || spec.shape[3] != Axis(Int(3))) {
    wrong(place + ".values." + name, described(name, spec), "uint8 [F, H, W, 3]");
  }
  check_field(scope, at + ".start", param.start, {Scalar(0.0), false}, true);
  check_field(scope, at + ".end", param.end, {Scalar(0.001), false}, true);
  check_field(scope, at + ".fps", param.fps, {Scalar(0.001), false}, true);
  check_field(scope, at + ".frames", param.frames, {Scalar(Int(1)), true}, true);
  check_field(scope, at + ".longest", param.longest, {Scalar(Int(1)), true}, false);
  check_field(scope, at + ".height", param.height, {Scalar(Int(1)), true}, false);
  check_field(scope, at + ".width", param.width, {Scalar(Int(1)), true}, false);
}

// A size is an int param from 1 to a max, or that of a symbol in `measured`.
void check_size(Scope& scope, const std::string& place, const Size& size, const Set& measured) {
  if (size.param.has_value() == size.symbol.has_value() || std::min(size.divide, size.times) < 1) {
    wrong(place, "is not a size", "either param or symbol, and times and divide of at least 1");
  }
  if (size.symbol && measured.count(*size.symbol) == 0) {
    wrong(place + ".symbol", shown(*size.symbol) + " has no size of its own",
          "a symbol whose size is a param, or comes from a video or a window");
  }
  if (size.param) {
    scope.referred(place + ".param", *size.param, {Scalar(Int(1)), true});
    if (!scope.mode.params.at(*size.param).max) {
      wrong(place + ".param", shown(*size.param) + " has no max", "a param with one");
    }
  }
}

// The symbols that have a size without another symbol: of params, or of videos.
Set measured_in(const Mode& mode) {
  Set measured;
  for (const auto& [symbol, size] : mode.sizes) {
    if (size.param) measured.insert(symbol);
  }
  for (const auto& [name, param] : mode.params) {
    if (param.type != ParamType::kVideo) continue;
    for (const Axis& axis : mode.values.at(name).shape) {
      if (is_symbol(axis) && !mode.sizes.has(symbol_of(axis))) measured.insert(symbol_of(axis));
    }
  }
  return measured;
}

bool has_symbol(const Mode& mode, const std::string& symbol) {
  const auto with_it = [&](const auto& entry) {
    const Shape& shape = entry.second.shape;
    return std::find(shape.begin(), shape.end(), Axis(symbol)) != shape.end();
  };
  return std::any_of(mode.values.begin(), mode.values.end(), with_it);
}

void check_sizes(Scope& scope, const std::string& place) {
  const Mode& mode = scope.mode;
  const Set measured = measured_in(mode);
  Set inside, known = measured;
  for (const Stage& stage : mode.stages) {
    for (const Window& window : stage.each ? stage.each->windows : std::vector<Window>()) {
      inside.insert(window.symbol);
      known.insert(window.symbol);
    }
  }
  for (const auto& [symbol, size] : mode.sizes) {
    const std::string at = place + ".sizes." + symbol;
    check_size(scope, at, size, known);
    const bool of_window = size.symbol && inside.count(*size.symbol);
    if (of_window && (size.plus != 0 || size.divide != 1)) {
      wrong(at, "of the window " + shown(*size.symbol), "times and no more");
    }
    if (!has_symbol(mode, symbol)) wrong(at, "is in no value's shape", "one with it");
    if (!of_window) scope.sized.insert(symbol);
  }
  scope.sized.insert(measured.begin(), measured.end());
}

}  // namespace

void check_start(Scope& scope, const std::string& place) {
  for (const auto& [name, param] : scope.mode.params) {
    if (param.type == ParamType::kVideo) {
      check_video(scope, place, name, param);
    } else if (const TensorSpec* spec = scope.mode.values.find(name)) {
      check_value(place + ".values." + name, param, spec->dtype);
    } else {
      continue;
    }
    scope.made.insert(name);
    scope.visible.insert(name);
  }
  check_sizes(scope, place);
}

}  // namespace edgereel_runtime
