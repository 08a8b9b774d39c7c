#include "plan_flow.hpp"

#include <algorithm>

#include "plan_sampling.hpp"
#include "plan_start.hpp"

namespace edgereel_runtime {
namespace {

const TensorSpec kRow = {"float32", {Int(16)}};
const Int kMaxSeed = (Int(1) << 64) - 1;

class Flow : public SamplingRules {
 public:
  Flow(const Document& plan, const Mode& mode, std::string place)
      : SamplingRules(plan, mode), place_(std::move(place)) {}

  void check_stage(const std::string& place, const Stage& stage);
  void check_end();

 private:
  void check_seed();
  void check_op(const std::string& place, const Tokenize& op);
  void check_op(const std::string& place, const Noise& op);
  void check_op(const std::string& place, const Run& op);
  void check_op(const std::string& place, const Denoise& op);
  void check_op(const std::string& place, const Renoise& op);
  void check_outputs(const std::string& place, const Tokenize& op, const Shape& ids);
  void check_step(const std::string& place, const Denoise& op);
  void check_stream(const std::string& place, const Denoise& op, const GraphSpec& graph);
  const TensorSpec& same(const std::string& place, const std::string& x, const std::string& out);
  void bind(const std::string& place, const Named<std::string>& values,
            const Named<TensorSpec>& tensors, Sizes& sizes, bool making);
  void check_shared(const std::string& place, const std::string& value, const Flag& shared);
  const GraphSpec& graph_of(const std::string& place, const std::string& name) const;
  void stream(const std::string& place, const std::string& name, Set& streams);

  std::string place_;
  Set part_streams_, once_streams_;
  Named<const Denoise*> trajectories_;  // by the value they make
  bool in_chunks_ = false;
};

void Flow::check_stage(const std::string& place, const Stage& stage) {
  const Set outside = visible, sizes_outside = sized;
  if (stage.each.has_value() == stage.collect.entries.empty()) {
    wrong(place, "has only one of each and collect", "both or neither");
  }
  in_chunks_ = stage.each.has_value();
  led.reset();
  if (in_chunks_) enter_chunks(place + ".each", *stage.each);
  for (std::size_t i = 0; i < stage.ops.size(); ++i) {
    const std::string at = place + ".ops[" + std::to_string(i) + "]";
    std::visit([&](const auto& op) { check_op(at, op); }, stage.ops[i]);
  }
  if (!in_chunks_) return;
  Set inside;
  std::set_difference(visible.begin(), visible.end(), outside.begin(), outside.end(),
                      std::inserter(inside, inside.end()));
  visible = outside;
  sized = sizes_outside;
  for (const auto& [chunk, whole] : stage.collect) {
    const std::string where = place + ".collect." + chunk;
    if (inside.count(chunk) == 0) {
      wrong(where, "is not made in this stage", "one of " + names(inside));
    }
    check_collect(where, *stage.each, chunk, whole);
  }
}

// The output exists and has the shape of frames; nothing is declared for nothing.
void Flow::check_end() {
  const std::string where = place_ + ".output";
  const TensorSpec& spec = read(where + ".value", mode.output.value);
  if (spec.dtype != "uint8" || spec.shape.size() != 4 || spec.shape[3] != Axis(Int(3))) {
    wrong(where + ".value", described(mode.output.value, spec), "uint8 [F, H, W, 3]");
  }
  number(where + ".fps", mode.output.fps, {Scalar(0.001), false});
  if (!part_streams_.empty() || !once_streams_.empty()) check_seed();
  const auto first_idle = [](Words declared, const Set& needed) -> std::optional<std::string> {
    std::sort(declared.begin(), declared.end());
    for (const std::string& name : declared) {
      if (needed.count(name) == 0) return name;
    }
    return std::nullopt;
  };
  if (const auto idle = first_idle(mode.values.keys(), made)) {
    wrong(place_ + ".values." + *idle, "no op makes it", "one that does");
  }
  if (const auto idle = first_idle(mode.params.keys(), used)) {
    wrong(place_ + ".params." + *idle, "nothing uses it", "a use of it");
  }
}

void Flow::check_seed() {
  const Param* seed = mode.params.find("seed");
  std::string found = "is missing or has no range";
  if (seed != nullptr && seed->type == ParamType::kInt && seed->min && seed->max) {
    const Int low = std::get<Int>(*seed->min), high = std::get<Int>(*seed->max);
    if (low >= 0 && high <= kMaxSeed) {
      used.insert("seed");
      return;
    }
    found = "has the range " + text(low) + " to " + text(high);
  }
  wrong(place_ + ".params.seed", found,
        "an int param within 0 to " + text(kMaxSeed) + ", as noise is drawn");
}

void Flow::check_op(const std::string& place, const Tokenize& op) {
  if (in_chunks_) wrong(place + ".op", "tokenize once per chunk", "it in a stage before");
  find(place + ".tokenizer", op.tokenizer, plan.tokenizers, "tokenizer");
  const auto& rows = find(place + ".rows", op.rows, mode.rows, "rows list");
  for (const Row& row : rows) {
    if (row.param) used.insert(*row.param);
  }
  const Shape& shape = declared(place + ".ids", op.ids).shape;
  const Axis size = shape.empty() ? Axis(Int(0)) : shape[0];
  const Axis* known = rows_size.find(op.rows);
  const bool taken = is_symbol(size) && sized.count(symbol_of(size)) > 0;
  if (known == nullptr ? taken : *known != size) {
    wrong(place + ".ids", "its axis 0 is " + shown(size),
          "one symbol for rows " + shown(op.rows) + ", and for nothing else");
  }
  if (known == nullptr) rows_size.entries.emplace_back(op.rows, size);
  if (!is_symbol(size) && std::get<Int>(size) != static_cast<Int>(rows.size())) {
    wrong(place + ".ids", "its axis 0 is " + text(size),
          "a symbol, or " + std::to_string(rows.size()) + " as rows has");
  }
  if (is_symbol(size)) sized.insert(symbol_of(size));
  check_outputs(place, op, {size, plan.tokenizers.at(op.tokenizer).length});
}

void Flow::check_outputs(const std::string& place, const Tokenize& op, const Shape& ids) {
  fit(place + ".ids", op.ids, make(place + ".ids", op.ids), {"int64", ids});
  if (op.mask) {
    const TensorSpec& mask = make(place + ".mask", *op.mask);
    const std::string dtype = mask.dtype == "int64" ? mask.dtype : "float32";
    fit(place + ".mask", *op.mask, mask, {dtype, ids});
  }
  if (op.row) fit(place + ".row", *op.row, make(place + ".row", *op.row), {"int64", {ids[0]}});
}

void Flow::check_op(const std::string& place, const Noise& op) {
  stream(place + ".value", op.value, once_streams_);
  const TensorSpec& spec = make(place + ".value", op.value);
  check_shared(place + ".shared", op.value, op.shared);
  fit(place + ".value", op.value, spec, {"float32", spec.shape});
}

void Flow::check_op(const std::string& place, const Run& op) {
  const GraphSpec& graph = graph_of(place, op.graph);
  Sizes sizes;
  bind(place + ".inputs", op.inputs, graph.inputs, sizes, false);
  bind(place + ".outputs", op.outputs, graph.outputs, sizes, true);
}

void Flow::check_op(const std::string& place, const Denoise& op) {
  check_step(place, op);
  check_sampling(place, op);
  trajectories_.entries.emplace_back(op.out, &op);
  check_stream(place, op, plan.graphs.at(op.graph));
}

// The graph is one of a step, and its conditions are given.
void Flow::check_step(const std::string& place, const Denoise& op) {
  const GraphSpec& graph = graph_of(place, op.graph);
  Sizes sizes;
  const TensorSpec& x = same(place, op.x, op.out);
  Named<TensorSpec> own;
  own.entries = {{"x", x}, {"row", kRow}, {"weights", check_guidance(place, op.guidance)}};
  for (const char* name : {"prev", "noise"}) {
    if (graph.inputs.has(name)) own.entries.emplace_back(name, x);
  }
  Named<TensorSpec> results;
  results.entries = {{"x_next", x}, {"x0", x}};
  Named<TensorSpec> inputs = graph.inputs, outputs = graph.outputs;
  const auto take = [&](Named<TensorSpec>& from, const Named<TensorSpec>& wanted) {
    for (const auto& [name, spec] : wanted) {
      const TensorSpec* found = from.find(name);
      if (found == nullptr) {
        wrong(place + ".graph", shown(op.graph) + " has no " + shown(name), "a graph of one step");
      }
      const TensorSpec taken = *found;
      const auto named = [&, &name = name](const auto& entry) { return entry.first == name; };
      from.entries.erase(std::find_if(from.begin(), from.end(), named));
      fit(place + ".graph", name, spec, taken, &sizes);
    }
  };
  take(inputs, own);
  take(outputs, results);
  if (!outputs.entries.empty()) {
    wrong(place + ".graph", "has outputs " + names(outputs.keys()), "only x_next and x0");
  }
  bind(place + ".conditions", op.conditions, inputs, sizes, false);
}

void Flow::check_stream(const std::string& place, const Denoise& op, const GraphSpec& graph) {
  const bool empty = !op.noise || op.noise->empty();
  const bool* plain = std::get_if<bool>(&op.shared_noise);
  const bool may_share = plain == nullptr || *plain;
  if (op.noise.has_value() != graph.inputs.has("noise") || (may_share && empty)) {
    wrong(place + ".noise", "is " + (op.noise ? shown(*op.noise) : "None"),
          "a stream name exactly if the graph reads noise");
  }
  if (!op.noise) return;
  // The parts of one trajectory share a stream, whose draws its steps number.
  stream(place + ".noise", *op.noise, op.range ? part_streams_ : once_streams_);
  check_shared(place + ".shared_noise", op.x, op.shared_noise);
}

void Flow::check_op(const std::string& place, const Renoise& op) {
  find(place + ".schedule", op.schedule, plan.schedules, "schedule");
  stream(place + ".noise", op.noise, once_streams_);
  number(place + ".to", op.to, {Scalar(Int(0)), true});
  if (op.from) number(place + ".from", *op.from, {Scalar(Int(0)), true});
  const Int* from = op.from ? std::get_if<Int>(&*op.from) : nullptr;
  const Int* to = std::get_if<Int>(&op.to);
  if (from != nullptr && to != nullptr && *from >= *to) {
    wrong(place + ".to", text(*to) + " <= from", "a noisier timestep");
  }
  if (op.along) find(place + ".along", *op.along, trajectories_, "denoised value before");
  same(place, op.x, op.out);
  check_shared(place + ".shared_noise", op.x, op.shared_noise);
}

const TensorSpec& Flow::same(const std::string& place, const std::string& x,
                             const std::string& out) {
  const TensorSpec& spec = read(place + ".x", x);
  fit(place + ".x", x, spec, {"float32", spec.shape});
  fit(place + ".out", out, make(place + ".out", out), spec);
  return spec;
}

void Flow::bind(const std::string& place, const Named<std::string>& values,
                const Named<TensorSpec>& tensors, Sizes& sizes, bool making) {
  const std::string exactly = "exactly " + names(tensors.keys());
  for (const auto& entry : values) {
    if (!tensors.has(entry.first)) {
      wrong(place + "." + entry.first, "is not one of the graph's", exactly);
    }
  }
  for (const auto& entry : tensors) {
    if (!values.has(entry.first)) wrong(place + "." + entry.first, "is not given a value", exactly);
  }
  for (const auto& [name, value] : values) {
    const std::string where = place + "." + name;
    const TensorSpec& spec = making ? make(where, value) : read(where, value);
    fit(where, value, spec, tensors.at(name), &sizes);
  }
}

// In led chunks, what is drawn for the first entries is what the first chunk drew.
void Flow::check_shared(const std::string& place, const std::string& value, const Flag& shared) {
  const auto* ref = std::get_if<Ref>(&shared);
  if (ref != nullptr) referred(place, ref->param, {std::nullopt, true});
  const Shape& shape = mode.values.at(value).shape;
  const Axis axis = shape.empty() ? Axis(Int(0)) : shape[0];
  if (!led || (ref == nullptr && std::get<bool>(shared))) return;
  if (axis != Axis(*led)) {
    wrong(place, "draws for " + shown(value) + ", whose axis 0 is " + shown(axis),
          shown(*led) + ", or shared");
  }
}

const GraphSpec& Flow::graph_of(const std::string& place, const std::string& name) const {
  return find(place + ".graph", name, plan.graphs, "graph");
}

// Two draws of one name would be equal numbers.
void Flow::stream(const std::string& place, const std::string& name, Set& streams) {
  if (once_streams_.count(name) || (part_streams_.count(name) && &streams != &part_streams_)) {
    wrong(place, "noise " + shown(name) + " is drawn already", "a name of its own");
  }
  streams.insert(name);
}

}  // namespace

void check_flow(const Document& plan, const Mode& mode, const std::string& place) {
  Flow flow(plan, mode, place);
  check_start(flow, place);
  for (std::size_t i = 0; i < mode.stages.size(); ++i) {
    flow.check_stage(place + ".stages[" + std::to_string(i) + "]", mode.stages[i]);
  }
  flow.check_end();
}

}  // namespace edgereel_runtime
