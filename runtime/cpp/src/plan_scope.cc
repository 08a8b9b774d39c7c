#include "plan_scope.hpp"

#include <algorithm>

namespace edgereel_runtime {

const TensorSpec& Scope::declared(const std::string& place, const std::string& name) const {
  return find(place, name, mode.values, "declared value");
}

const TensorSpec& Scope::read(const std::string& place, const std::string& name) {
  const TensorSpec& spec = declared(place, name);
  if (visible.count(name) == 0) {
    const std::string state = made.count(name) ? "is not visible here" : "is not made yet";
    wrong(place, shown(name) + " " + state, "one of " + names(visible));
  }
  used.insert(name);
  check_sizes(place, name, spec);
  return spec;
}

const TensorSpec& Scope::make(const std::string& place, const std::string& name) {
  const TensorSpec& spec = declared(place, name);
  if (made.count(name)) wrong(place, shown(name) + " is made twice", "each value to be made once");
  check_sizes(place, name, spec);
  made.insert(name);
  visible.insert(name);
  return spec;
}

void Scope::check_sizes(const std::string& place, const std::string& name,
                        const TensorSpec& spec) const {
  for (const Axis& axis : spec.shape) {
    if (is_symbol(axis) && sized.count(symbol_of(axis)) == 0) {
      wrong(place, shown(axis) + " in " + shown(name) + " has no size here",
            "a symbol from sizes, a video, ids or a chunk");
    }
  }
}

void Scope::number(const std::string& place, const Number& number, const Bound& bound) {
  if (const auto* ref = std::get_if<Ref>(&number)) return referred(place, ref->param, bound);
  check_least(place, Scalar(std::get<double>(number)), bound);
}

void Scope::number(const std::string& place, const Whole& number, const Bound& bound) {
  if (const auto* ref = std::get_if<Ref>(&number)) return referred(place, ref->param, bound);
  check_least(place, Scalar(std::get<Int>(number)), bound);
}

void Scope::referred(const std::string& place, const std::string& name, const Bound& bound) {
  const Param& param = find(place, name, mode.params, "param");
  if (!(param.type == ParamType::kInt || (param.type == ParamType::kFloat && !bound.whole))) {
    const std::string kind = bound.whole ? "an int param" : "a numeric param";
    wrong(place, shown(name) + " is not " + kind, kind);
  }
  used.insert(name);
  check_least(place, param.min, bound);
}

void Scope::check_least(const std::string& place, const std::optional<Scalar>& low,
                        const Bound& bound) {
  if (!bound.least || (low && !less(*low, *bound.least))) return;
  wrong(place, low ? "can be " + text(*low) : "can be anything", "at least " + text(*bound.least));
}

void Scope::choice(const std::string& place, const Word& word, const Words& allowed) {
  const auto* ref = std::get_if<Ref>(&word);
  if (ref == nullptr) return;
  const Param& param = find(place, ref->param, mode.params, "param");
  const auto known = [&](const std::string& choice) {
    return std::find(allowed.begin(), allowed.end(), choice) != allowed.end();
  };
  if (param.type != ParamType::kChoice ||
      !std::all_of(param.choices.begin(), param.choices.end(), known)) {
    wrong(place, shown(ref->param) + " can be something else", "choices from " + names(allowed));
  }
  used.insert(ref->param);
}

std::optional<std::pair<std::size_t, Int>> cut(const Mode& mode, const std::string& value,
                                               const std::string& symbol) {
  const Shape& shape = mode.values.at(value).shape;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (!is_symbol(shape[axis])) continue;
    if (symbol_of(shape[axis]) == symbol) return {{axis, 1}};
    const Size* found = mode.sizes.find(symbol_of(shape[axis]));
    if (found != nullptr && found->symbol == symbol) return {{axis, found->times}};
  }
  return std::nullopt;
}

Axis window_length(const Mode& mode, const Each& each, const std::string& symbol) {
  for (const auto& [part, whole] : each.slices) {
    if (const auto found = cut(mode, part, symbol))
      return mode.values.at(whole).shape[found->first];
  }
  return Int(1);  // no checked plan has such a window
}

std::string text(const Axis& axis) {
  return is_symbol(axis) ? symbol_of(axis) : text(std::get<Int>(axis));
}

std::string shown(const Axis& axis) {
  return is_symbol(axis) ? shown(symbol_of(axis)) : text(axis);
}

std::string names(const Set& words) { return names(Words(words.begin(), words.end())); }

std::string described(const TensorSpec& spec) {
  Words sizes;
  for (const Axis& axis : spec.shape) sizes.push_back(text(axis));
  return spec.dtype + " [" + joined(sizes) + "]";
}

std::string described(const std::string& name, const TensorSpec& spec) {
  return shown(name) + " is " + described(spec);
}

void fit(const std::string& place, const std::string& name, const TensorSpec& spec,
         const TensorSpec& wanted, Sizes* sizes) {
  bool fits = spec.dtype == wanted.dtype && spec.shape.size() == wanted.shape.size();
  for (std::size_t i = 0; i < std::min(spec.shape.size(), wanted.shape.size()); ++i) {
    Axis want = wanted.shape[i];
    if (sizes != nullptr && is_symbol(want)) {
      const std::string symbol = symbol_of(want);
      if (!sizes->has(symbol)) sizes->entries.emplace_back(symbol, spec.shape[i]);
      want = sizes->at(symbol);
    }
    fits = fits && spec.shape[i] == want;
  }
  if (fits) return;
  std::string known;
  for (const auto& [symbol, size] : sizes ? *sizes : Sizes()) {
    known += ", " + symbol + " = " + text(size);
  }
  wrong(place, described(name, spec), described(wanted) + known);
}

bool is_symbol(const Axis& axis) { return std::holds_alternative<std::string>(axis); }

const std::string& symbol_of(const Axis& axis) { return std::get<std::string>(axis); }

}  // namespace edgereel_runtime
