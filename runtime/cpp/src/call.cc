#include "call.hpp"

#include <algorithm>
#include <stdexcept>

#include "errors.hpp"
#include "ops.hpp"
#include "plan_scope.hpp"

namespace edgereel_runtime {
namespace {

std::uint64_t seed_of(const Values& params) {
  const Value* seed = params.find("seed");
  const Int* whole = seed != nullptr ? std::get_if<Int>(seed) : nullptr;
  return whole != nullptr ? static_cast<std::uint64_t>(*whole) : 0;
}

std::int64_t elements(const Dims& dims) { return static_cast<std::int64_t>(product(dims)); }

}  // namespace

Call::Call(const Asked& asked, const Arrays& given_noise)
    : plan(asked.plan),
      mode(asked.mode),
      params(asked.params),
      draws(seed_of(asked.params), given_noise, asked.mode) {
  for (const auto& entry : mode.rows) kept[entry.first] = kept_rows(entry.first);
  for (const Stage& stage : mode.stages) {
    for (const Op& op : stage.ops) {
      try {
        resolve(op, asked.tables);
      } catch (const std::invalid_argument& error) {
        fail(Kind::kInput, "stage " + shown(stage.name) + ": " + error.what());
      }
    }
  }
  videos = read_videos(mode, params);
  sizes = start_sizes(mode, params, videos);
  add_row_sizes();
  for (const Stage& stage : mode.stages) spans.push_back(spans_of(stage));
}

void Call::resolve(const Op& op, const Tables& tables) {
  if (const auto* denoise = std::get_if<Denoise>(&op)) {
    steps[denoise->out] = steps_of(*denoise, tables.at(denoise->schedule));
  }
  if (const auto* again = std::get_if<Renoise>(&op)) {
    check_order(again->from, again->to);
    std::optional<Scalar> start, end = number_of(again->to, params);
    if (again->from) start = number_of(*again->from, params);
    if (again->along) {
      start = lowered(start, *again->along);
      end = lowered(end, *again->along);
    }
    renoise[again->out] = renoise_coefficients(tables.at(again->schedule), start, *end);
  }
}

Dims Call::dims(const std::string& value, const Numbers& numbers) const {
  Dims found;
  for (const Axis& axis : mode.values.at(value).shape) {
    const Int size = is_symbol(axis) ? numbers.at(symbol_of(axis)) : std::get<Int>(axis);
    if (size > INT64_MAX) throw std::bad_alloc();
    found.push_back(static_cast<std::int64_t>(size));
  }
  return found;
}

Array Call::filled(const std::string& name, const Numbers& numbers) const {
  Array array(dtype_of(mode.values.at(name).dtype), dims(name, numbers));
  const Value& value = params.at(name);
  const Int* whole = std::get_if<Int>(&value);
  const std::size_t count = array.count();
  if (array.dtype() == DType::kInt64) {
    std::fill_n(array.as<std::int64_t>(), count, static_cast<std::int64_t>(*whole));
  } else if (array.dtype() == DType::kInt32) {
    std::fill_n(array.as<std::int32_t>(), count, static_cast<std::int32_t>(*whole));
  } else {
    const double number = whole ? static_cast<double>(*whole) : std::get<double>(value);
    std::fill_n(array.as<float>(), count, static_cast<float>(number));
  }
  return array;
}

std::int64_t Call::work(const Op& op, const Numbers& numbers) const {
  if (const auto* run = std::get_if<Run>(&op)) {
    std::int64_t sum = 0;
    for (const auto& entry : run->outputs) sum += elements(dims(entry.second, numbers));
    return sum;
  }
  const auto* denoise = std::get_if<Denoise>(&op);
  if (denoise == nullptr) return 0;
  const Steps& own = steps.at(denoise->out);
  return static_cast<std::int64_t>(own.rows.size() * own.weights.size()) *
         elements(dims(denoise->x, numbers));
}

std::int64_t Call::total_work() const {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < mode.stages.size(); ++i) {
    each_chunk(spans[i], [&](const std::vector<Span>& chosen) {
      const Numbers numbers = chunk_sizes(mode.stages[i], chosen);
      for (const Op& op : mode.stages[i].ops) sum += work(op, numbers);
    });
  }
  return sum;
}

Numbers Call::chunk_sizes(const Stage& stage, const std::vector<Span>& chosen) const {
  if (!stage.each) return sizes;
  Numbers all;
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    all.entries.emplace_back(stage.each->windows[i].symbol, chosen[i].size());
  }
  for (const auto& [symbol, size] : mode.sizes) {
    const std::int64_t* source = size.symbol ? all.find(*size.symbol) : nullptr;
    if (source != nullptr) {
      all.entries.emplace_back(symbol, *source * static_cast<std::int64_t>(size.times));
    }
  }
  // Entries are found from the front, so those of the chunk hide those of the call.
  all.entries.insert(all.entries.end(), sizes.begin(), sizes.end());
  return all;
}

std::vector<std::pair<std::size_t, Span>> Call::cuts(const std::string& part, const Each& each,
                                                     const std::vector<Span>& chosen) const {
  std::vector<std::pair<std::size_t, Span>> found;
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    if (const auto axis = cut(mode, part, each.windows[i].symbol)) {
      found.emplace_back(axis->first, chosen[i]);
    }
  }
  return found;
}

std::vector<std::vector<Span>> Call::spans_of(const Stage& stage) const {
  std::vector<std::vector<Span>> all;
  for (const Window& window : stage.each ? stage.each->windows : std::vector<Window>()) {
    all.push_back(spans_of(stage, window));
  }
  return all;
}

std::vector<Span> Call::spans_of(const Stage& stage, const Window& window) const {
  const Axis length = window_length(mode, *stage.each, window.symbol);
  const Int total = is_symbol(length) ? sizes.at(symbol_of(length)) : std::get<Int>(length);
  const auto whole = [&](const Whole& field) { return std::get<Int>(number_of(field, params)); };
  const Int size = whole(window.size), overlap = whole(window.overlap);
  if (size != 0 && overlap >= size) {
    Words changeable;
    for (const Whole& field : {window.size, window.overlap}) {
      if (const auto* ref = std::get_if<Ref>(&field)) changeable.push_back(ref->param);
    }
    fail(Kind::kInput, "stage " + shown(stage.name) + ": parts of " + text(size) +
                           " that overlap by " + text(overlap) +
                           " never get on; expected a larger part or a smaller overlap. Change " +
                           joined(changeable, " or ") + ".");
  }
  const auto small = [&](Int number) { return static_cast<std::int64_t>(std::min(number, total)); };
  return edgereel_runtime::spans(small(total), small(size), small(overlap), small(window.lead));
}

std::set<std::string> Call::read_after(std::size_t stage) const {
  std::set<std::string> needed = {mode.output.value};
  for (std::size_t i = stage + 1; i < mode.stages.size(); ++i) {
    for (const auto& entry :
         mode.stages[i].each ? mode.stages[i].each->slices : Named<std::string>()) {
      needed.insert(entry.second);
    }
    for (const Op& op : mode.stages[i].ops) {
      const Words read = reads(op);
      needed.insert(read.begin(), read.end());
    }
  }
  return needed;
}

template <typename T>
void Call::check_order(const std::optional<T>& clean, const T& noisy) const {
  if (!clean) return;
  const Scalar low = number_of(*clean, params), high = number_of(noisy, params);
  if (less(low, high)) return;
  const auto said = [&](const T& field, const Scalar& number) {
    const auto* ref = std::get_if<Ref>(&field);
    return (ref ? ref->param : "the plan's timestep") + " is " + general(as_double(number));
  };
  throw std::invalid_argument(said(*clean, low) + " and " + said(noisy, high) +
                              "; expected the first to be the lower timestep, as it has less "
                              "noise. Change one of them.");
}

std::vector<double> Call::weights(const Guidance& guidance) const {
  std::vector<double> all;
  for (const Weight& weight : guidance.weights) {
    double sum = 0;
    for (const auto& [name, factor] : weight.params) {
      sum += factor * as_double(number_of(Number(Ref{name}), params));
    }
    all.push_back(weight.constant + sum);
  }
  return all;
}

// Indices of the rows that some denoise op gives a weight, or of all if none guides.
std::vector<std::size_t> Call::kept_rows(const std::string& rows) const {
  std::vector<std::vector<double>> guided;
  for (const Stage& stage : mode.stages) {
    for (const Op& op : stage.ops) {
      const auto* denoise = std::get_if<Denoise>(&op);
      if (denoise != nullptr && denoise->guidance && denoise->guidance->rows == rows) {
        guided.push_back(weights(*denoise->guidance));
      }
    }
  }
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < mode.rows.at(rows).size(); ++i) {
    const auto counts = [&](const std::vector<double>& of_op) { return of_op[i] != 0; };
    if (guided.empty() || std::any_of(guided.begin(), guided.end(), counts)) found.push_back(i);
  }
  if (found.empty()) {
    fail(Kind::kInput, "the guidance gives every one of the " + rows +
                           " rows the weight 0; expected one that counts. Change the guidance.");
  }
  return found;
}

void Call::add_row_sizes() {
  for (const Stage& stage : mode.stages) {
    for (const Op& op : stage.ops) {
      const auto* tokenize = std::get_if<Tokenize>(&op);
      if (tokenize == nullptr) continue;
      const Axis& axis = mode.values.at(tokenize->ids).shape[0];
      if (!is_symbol(axis) || sizes.has(symbol_of(axis))) continue;
      const auto count = static_cast<std::int64_t>(kept.at(tokenize->rows).size());
      sizes.entries.emplace_back(symbol_of(axis), count);
    }
  }
}

std::optional<Scalar> Call::lowered(const std::optional<Scalar>& t,
                                    const std::string& along) const {
  if (!t) return std::nullopt;
  const std::vector<float>& visited = steps.at(along).trajectory;
  const float limit = static_cast<float>(as_double(*t));
  std::optional<float> highest;
  for (float timestep : visited) {
    if (timestep <= limit && (!highest || timestep > *highest)) highest = timestep;
  }
  if (!highest) {
    const float last = *std::min_element(visited.begin(), visited.end());
    throw std::invalid_argument("timestep " + general(as_double(*t)) + " is below " +
                                general(last) +
                                ", the last that is visited; expected a higher one. Raise it, or "
                                "take more steps.");
  }
  return Scalar(static_cast<double>(*highest));
}

Steps Call::steps_of(const Denoise& op, const Levels& table) const {
  const std::string& sampler = word_of(op.sampler, params);
  const std::string* own = op.spacings.find(sampler);
  Sampling sampling{sampler,  own != nullptr ? *own : word_of(op.spacing, params),
                    0,        number_of(op.eta, params),
                    op.final, op.variance};
  sampling.steps = static_cast<std::int64_t>(
      std::min<Int>(std::get<Int>(number_of(op.steps, params)), INT64_MAX));
  Steps found;
  found.rows = sampler_rows(sampling, table);
  for (const auto& row : found.rows) found.trajectory.push_back(row[kT]);
  if (op.range) {
    check_order(op.range->to, op.range->from);
    const double high = as_double(number_of(op.range->from, params));
    std::optional<double> low;
    if (op.range->to) low = as_double(number_of(*op.range->to, params));
    const auto above = [&](float t) { return t > static_cast<float>(high); };
    found.first = std::count_if(found.trajectory.begin(), found.trajectory.end(), above);
    found.rows = row_range(found.rows, high, low);
  }
  check_inputs(op, sampler, found.rows);
  if (!op.guidance) {
    found.weights = {1};
    return found;
  }
  const std::vector<double> every = weights(*op.guidance);
  for (std::size_t index : kept.at(op.guidance->rows)) {
    found.weights.push_back(static_cast<float>(every[index]));
  }
  return found;
}

void Call::check_inputs(const Denoise& op, const std::string& sampler, const Rows& rows) const {
  for (const auto& [column, name] : {std::pair(kCPrev, "prev"), std::pair(kCNoise, "noise")}) {
    const auto used = [&, &at = column](const auto& row) { return row[at] != 0; };
    if (plan.graphs.at(op.graph).inputs.has(name) || std::none_of(rows.begin(), rows.end(), used)) {
      continue;
    }
    fail(Kind::kInput, "sampler " + shown(sampler) + " with eta " +
                           text(number_of(op.eta, params)) + " needs an input '" + name +
                           "' that graph " + shown(op.graph) +
                           " does not have; expected a sampler it was exported for. Choose "
                           "another, or export the cascade with that input.");
  }
}

void each_chunk(const std::vector<std::vector<Span>>& spans,
                const std::function<void(const std::vector<Span>&)>& use) {
  std::vector<Span> chosen;
  const std::function<void()> deeper = [&] {
    if (chosen.size() == spans.size()) return use(chosen);
    for (const Span& span : spans[chosen.size()]) {
      chosen.push_back(span);
      deeper();
      chosen.pop_back();
    }
  };
  deeper();
}

}  // namespace edgereel_runtime
