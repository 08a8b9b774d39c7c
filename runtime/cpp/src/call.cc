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
      draws(seed_of(asked.params), given_noise, first_keys(asked.mode, asked.params)) {
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
