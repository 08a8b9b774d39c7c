#include "memory.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "errors.hpp"
#include "ops.hpp"
#include "plan_scope.hpp"
#include "weights.hpp"

namespace edgereel_runtime {
namespace {

// Where a value is made and dropped, counted in ops from the start of the mode.
struct Life {
  std::size_t start, end;
};
using Lives = std::map<std::string, Life>;

void touch(Lives& lives, const Words& names, std::size_t moment) {
  for (const std::string& name : names) {
    const auto found = lives.find(name);
    lives[name] = {found != lives.end() ? found->second.start : moment, moment};
  }
}

Words values_of(const Op& op) {
  Words all = reads(op);
  for (const std::string& name : writes(op)) all.push_back(name);
  return all;
}

// When each value is made, and the end of the last stage that has it: there it is dropped. Joined
// values exist from their stage's start.
Lives lives_of(const Mode& mode) {
  Lives lives;
  for (const auto& [name, param] : mode.params) {
    if (param.type == ParamType::kVideo) touch(lives, {name}, 0);
  }
  std::size_t at = 0;
  for (const Stage& stage : mode.stages) {
    const std::size_t last = at + std::max<std::size_t>(stage.ops.size(), 1) - 1;
    Words parts;
    for (const auto& [part, whole] : stage.each ? stage.each->slices : Named<std::string>()) {
      parts.push_back(part);
      parts.push_back(whole);
    }
    for (const auto& entry : stage.collect) parts.push_back(entry.second);
    touch(lives, parts, at);
    for (std::size_t i = 0; i < stage.ops.size(); ++i)
      touch(lives, values_of(stage.ops[i]), at + i);
    for (const Op& op : stage.ops) touch(lives, values_of(op), last);
    touch(lives, parts, last);
    at = last + 1;
  }
  touch(lives, {mode.output.value}, at);
  return lives;
}

// Bytes of a value; none if an axis has no size.
std::optional<std::int64_t> spec_bytes(const TensorSpec& spec, const Numbers& sizes) {
  auto bytes = static_cast<double>(item_bytes(dtype_of(spec.dtype)));
  for (const Axis& axis : spec.shape) {
    const std::int64_t* known = is_symbol(axis) ? sizes.find(symbol_of(axis)) : nullptr;
    if (is_symbol(axis) && known == nullptr) return std::nullopt;
    bytes *= known ? static_cast<double>(*known) : static_cast<double>(std::get<Int>(axis));
  }
  return static_cast<std::int64_t>(std::min(bytes, 0x1p60));
}

// What a sampling loop has beside its values: x_next and x0 twice, one of them `out`.
std::size_t loop_buffers(const Document& plan, const Denoise& op) {
  const Named<TensorSpec>& inputs = plan.graphs.at(op.graph).inputs;
  return 3 + std::size_t(inputs.has("prev")) + std::size_t(inputs.has("noise"));
}

// Input of the graph -> shape of the value it is given.
Named<Shape> shapes_of(const Mode& mode, const Op& op) {
  Named<Shape> shapes;
  const auto* denoise = std::get_if<Denoise>(&op);
  if (denoise != nullptr) {
    const Int rows = denoise->guidance ? static_cast<Int>(denoise->guidance->weights.size()) : 1;
    shapes.entries.emplace_back("weights", Shape{rows});
    shapes.entries.emplace_back("x", mode.values.at(denoise->x).shape);
  }
  for (const auto& [name, value] : denoise ? denoise->conditions : std::get<Run>(op).inputs) {
    shapes.entries.emplace_back(name, mode.values.at(value).shape);
  }
  return shapes;
}

// One of a graph's `activations` in numbers; a term with a symbol without a size is 0.
double evaluated(const Named<double>& terms, const std::map<std::string, double>& sizes) {
  double sum = 0;
  for (const auto& [product, factor] : terms) {
    double term = factor;
    for (std::size_t start = 0; start < product.size();) {
      const std::size_t end = std::min(product.find('*', start), product.size());
      const auto found = sizes.find(product.substr(start, end - start));
      term *= found != sizes.end() ? found->second : 0;
      start = end + 1;
    }
    sum += term;
  }
  return sum;
}

std::int64_t activations_of(const MemoryAsked& asked, const Op& op, const Numbers& sizes) {
  const GraphSpec& graph = asked.plan.graphs.at(*graph_of(op));
  std::map<std::string, double> bound;
  for (const auto& [name, shape] : shapes_of(asked.mode, op)) {
    const Shape& symbols = graph.inputs.at(name).shape;
    for (std::size_t i = 0; i < shape.size(); ++i) {
      const std::int64_t* known = is_symbol(shape[i]) ? sizes.find(symbol_of(shape[i])) : nullptr;
      if (!is_symbol(symbols[i]) || (is_symbol(shape[i]) && known == nullptr)) continue;
      bound[symbol_of(symbols[i])] =
          known ? static_cast<double>(*known) : static_cast<double>(std::get<Int>(shape[i]));
    }
  }
  double most = 0;
  const bool less = asked.kernels && !graph.activations_kernels.empty();
  for (const auto& terms : less ? graph.activations_kernels : graph.activations) {
    most = std::max(most, evaluated(terms, bound));
  }
  return static_cast<std::int64_t>(std::min(most, 0x1p60));
}

using Resident = std::map<std::string, std::int64_t>;  // graph -> bytes of its weights

std::optional<Footprint> footprint_of(const MemoryAsked& asked, const std::string& graph) {
  return asked.footprint ? asked.footprint(graph) : std::nullopt;
}

// Bytes of a graph's weights, and what it takes besides while it loads.
std::pair<std::int64_t, std::int64_t> loaded(const MemoryAsked& asked, const std::string& graph) {
  if (const auto engine = footprint_of(asked, graph)) return {engine->weights, 0};
  const auto bytes = weight_bytes(asked.folder + "/" + asked.plan.graphs.at(graph).file);
  return {bytes, bytes};
}

// The graphs that are in memory, and the block that compiled ones share.
struct Held {
  Resident weights;
  std::int64_t shared = 0;
};

// What one op takes; its graph stays.
Peak peak_of(const MemoryAsked& asked, const Op* op, const Numbers& sizes, Held& held) {
  Peak peak;
  const std::string* graph = op != nullptr ? graph_of(*op) : nullptr;
  if (graph != nullptr) {
    const auto engine = footprint_of(asked, *graph);
    held.shared = std::max(held.shared, engine ? engine->activations : 0);
    peak.activations = engine ? held.shared : activations_of(asked, *op, sizes);
    if (held.weights.count(*graph) == 0) {
      std::tie(held.weights[*graph], peak.loading) = loaded(asked, *graph);
    }
  }
  const auto* denoise = op != nullptr ? std::get_if<Denoise>(op) : nullptr;
  if (denoise != nullptr) {
    const auto x = spec_bytes(asked.mode.values.at(denoise->x), sizes);
    peak.values += static_cast<std::int64_t>(loop_buffers(asked.plan, *denoise)) * x.value_or(0);
  }
  for (const auto& entry : held.weights) peak.weights += entry.second;
  return peak;
}

// Adds what a stage needs that is not there.
void add_graphs(const MemoryAsked& asked, const Stage& stage, Resident& weights) {
  for (const Op& op : stage.ops) {
    const std::string* graph = graph_of(op);
    if (graph != nullptr && weights.count(*graph) == 0) {
      weights[*graph] = loaded(asked, *graph).first;
    }
  }
}

std::string gib(std::int64_t bytes) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.3g GiB", static_cast<double>(bytes) / 0x1p30);
  return buffer;
}

// The param that decides how many frames come out, if there is one.
std::optional<std::string> frames_param(const Mode& mode) {
  Axis axis = mode.values.at(mode.output.value).shape[0];
  while (is_symbol(axis) && mode.sizes.has(symbol_of(axis))) {
    const Size& size = mode.sizes.at(symbol_of(axis));
    if (size.param) return size.param;
    axis = size.symbol.value_or("");
  }
  for (const auto& [name, param] : mode.params) {
    if (param.type != ParamType::kVideo || mode.values.at(name).shape[0] != axis) continue;
    const auto* ref = param.frames ? std::get_if<Ref>(&*param.frames) : nullptr;
    return ref != nullptr ? std::optional<std::string>(ref->param) : std::nullopt;
  }
  return std::nullopt;
}

// The params that decide the sizes of what a stage works on.
std::set<std::string> deciding_params(const Mode& mode, const Stage& stage) {
  Words names;
  for (const Op& op : stage.ops) {
    for (const std::string& name : values_of(op)) names.push_back(name);
  }
  for (const auto& entry : stage.collect) names.push_back(entry.second);
  std::set<std::string> found;
  for (const std::string& name : names) {
    for (Axis axis : mode.values.at(name).shape) {
      while (is_symbol(axis) && mode.sizes.has(symbol_of(axis))) {
        const Size& size = mode.sizes.at(symbol_of(axis));
        if (size.param) found.insert(*size.param);
        axis = size.symbol.value_or("");
      }
    }
  }
  return found;
}

// What a user can make smaller.
Words smaller(const Mode& mode, const Stage& stage) {
  Words ways;
  const auto add = [&](const std::string& way) {
    if (std::find(ways.begin(), ways.end(), way) == ways.end()) ways.push_back(way);
  };
  for (const Window& window : stage.each ? stage.each->windows : std::vector<Window>()) {
    const auto* ref = std::get_if<Ref>(&window.size);
    if (ref == nullptr) continue;
    const Param& param = mode.params.at(ref->param);
    const bool every = param.min && std::get<Int>(*param.min) == 0;
    add("a smaller " + ref->param + (every ? " (0 takes all)" : ""));
  }
  const auto frames = frames_param(mode);
  const std::set<std::string> deciding = deciding_params(mode, stage);
  bool of_a_size = false;
  for (const auto& entry : mode.sizes) of_a_size |= frames && entry.second.param == *frames;
  if (frames && (deciding.count(*frames) != 0 || !of_a_size)) {
    add((ends_with(*frames, "frames") ? "fewer " : "a smaller ") + *frames);
  }
  for (const auto& entry : mode.params) {
    if (entry.first != frames && deciding.count(entry.first) != 0) add("a smaller " + entry.first);
  }
  return ways;
}

}  // namespace

std::vector<Peak> stage_peaks(const MemoryAsked& asked, bool low_vram) {
  const Lives lives = lives_of(asked.mode);
  std::vector<Peak> peaks;
  Held held;
  for (const std::string& graph : asked.loaded) held.weights[graph] = 0;
  std::size_t moment = 0;
  const std::vector<Stage>& stages = asked.mode.stages;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const std::vector<Op>& ops = stages[i].ops;
    if (low_vram) held.weights.clear();
    const bool ahead = asked.ahead && !low_vram && i + 1 < stages.size();
    if (ahead) add_graphs(asked, stages[i + 1], held.weights);
    std::optional<Peak> largest;
    for (std::size_t k = 0; k < std::max<std::size_t>(ops.size(), 1); ++k, ++moment) {
      Peak peak = peak_of(asked, ops.empty() ? nullptr : &ops[k], asked.sizes[i], held);
      for (const auto& [name, life] : lives) {
        if (moment < life.start || moment > life.end) continue;
        peak.values += spec_bytes(asked.mode.values.at(name), asked.sizes[i]).value_or(0);
      }
      if (!largest || peak.total() > largest->total()) largest = peak;
    }
    peaks.push_back(*largest);
  }
  return peaks;
}

std::int64_t check_memory(const MemoryAsked& asked, const std::optional<std::int64_t>& free,
                          bool low_vram) {
  std::int64_t most = 0;
  const std::vector<Peak> peaks = stage_peaks(asked, low_vram);
  for (std::size_t i = 0; i < peaks.size(); ++i) {
    most = std::max(most, peaks[i].activations);
    if (!free || peaks[i].total() <= *free) continue;
    const Stage& stage = asked.mode.stages[i];
    Words ways = smaller(asked.mode, stage);
    const std::vector<Peak> others = stage_peaks(asked, true);
    const auto fits = [&](const Peak& peak) { return peak.total() <= *free; };
    if (std::all_of(others.begin(), others.end(), fits)) {
      ways.push_back("--low-vram (in Python low_vram=True)");
    }
    const std::string todo = ways.empty() ? "Close other programs" : "Use " + joined(ways, " or ");
    fail(Kind::kInput, "stage " + shown(stage.name) + " needs " + gib(peaks[i].total()) +
                           " of memory, " + gib(peaks[i].weights) +
                           " of it for weights; expected at most the " + gib(*free) +
                           " that are free. " + todo + ".");
  }
  return most;
}

}  // namespace edgereel_runtime
