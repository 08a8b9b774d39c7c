#include "plan_chunks.hpp"

namespace edgereel_runtime {
namespace {

bool may_overlap(const Window& window) {
  const Int* overlap = std::get_if<Int>(&window.overlap);
  return overlap == nullptr || *overlap != 0;
}

}  // namespace

void Chunks::enter_chunks(const std::string& place, const Each& each) {
  std::multiset<std::string> symbols;
  for (const Window& window : each.windows) symbols.insert(window.symbol);
  for (std::size_t i = 0; i < each.windows.size(); ++i) {
    const std::string where = place + ".windows[" + std::to_string(i) + "]";
    const std::string& symbol = each.windows[i].symbol;
    if (sized.count(symbol) || symbols.count(symbol) > 1) {
      wrong(where + ".symbol", shown(symbol) + " has a size already", "a new symbol");
    }
    check_window(where, each.windows[i]);
  }
  for (const auto& [symbol, size] : mode.sizes) {
    if (size.symbol && symbols.count(*size.symbol)) sized.insert(symbol);
  }
  sized.insert(symbols.begin(), symbols.end());
  lengths.entries.clear();
  for (const auto& [part, whole] : each.slices) {
    check_slice(place + ".slices." + part, part, whole, Set(symbols.begin(), symbols.end()));
  }
  for (std::size_t i = 0; i < each.windows.size(); ++i) check_lead(place, each, i);
}

void Chunks::check_window(const std::string& place, const Window& window) {
  number(place + ".lead", Whole(window.lead), {Scalar(Int(0)), false});
  const bool free = std::holds_alternative<Ref>(window.size) && window.lead == 0;
  number(place + ".size", window.size, {Scalar(free ? Int(0) : window.lead + 1), true});
  number(place + ".overlap", window.overlap, {Scalar(Int(0)), true});
  if (window.lead != 0 && may_overlap(window)) {
    wrong(place + ".overlap", "together with lead", "only one of them");
  }
}

void Chunks::check_lead(const std::string& place, const Each& each, std::size_t index) {
  const Window& window = each.windows[index];
  const std::string where = place + ".windows[" + std::to_string(index) + "]";
  if (!lengths.has(window.symbol)) wrong(where, "cuts no slice", "one that it cuts");
  if (window.lead == 0) return;
  led = window.symbol;
  bool first = each.windows.size() == 1;
  for (const auto& entry : each.slices) {
    const Shape& shape = mode.values.at(entry.first).shape;
    first = first && !shape.empty() && shape[0] == Axis(window.symbol);
  }
  if (!first) {
    wrong(where + ".lead", "is " + text(window.lead),
          "0, as more than axis 0 is cut, or not of every slice");
  }
}

void Chunks::check_slice(const std::string& place, const std::string& part,
                         const std::string& whole, const Set& symbols) {
  const TensorSpec& spec = read(place, whole);
  const TensorSpec& seen = make(place, part);
  TensorSpec wanted{spec.dtype, {}};
  bool is_cut = false;
  for (std::size_t i = 0; i < spec.shape.size(); ++i) {
    Axis size = spec.shape[i];
    const Axis* own = i < seen.shape.size() ? &seen.shape[i] : nullptr;
    if (own != nullptr && is_symbol(*own) && symbols.count(symbol_of(*own))) {
      const std::string symbol = symbol_of(*own);
      if (!lengths.has(symbol)) lengths.entries.emplace_back(symbol, size);
      if (lengths.at(symbol) != size) {
        wrong(place, shown(*own) + " cuts " + text(size),
              "an axis of size " + text(lengths.at(symbol)));
      }
      size = *own;
    }
    is_cut = is_cut || (is_symbol(size) && symbols.count(symbol_of(size)));
    wanted.shape.push_back(size);
  }
  if (!is_cut) wrong(place, described(part, seen) + " is not cut", "an axis with a window");
  fit(place, part, seen, wanted);
}

void Chunks::check_collect(const std::string& place, const Each& each, const std::string& chunk,
                           const std::string& whole) {
  const TensorSpec& part = mode.values.at(chunk);
  const TensorSpec& joined = declared(place, whole);
  TensorSpec wanted = part;
  for (const Window& window : each.windows) {
    if (may_overlap(window) && part.dtype != "float32" && part.dtype != "uint8") {
      wrong(place, described(chunk, part), "float32 or uint8, as parts overlap");
    }
    const auto found = cut(mode, chunk, window.symbol);
    if (!found || (window.lead != 0 && *found != std::pair<std::size_t, Int>(0, 1))) {
      wrong(place, described(chunk, part), "an axis of the window " + shown(window.symbol));
    }
    const auto [axis, times] = *found;
    const Axis& length = lengths.at(window.symbol);
    wanted.shape[axis] = times == 1 ? length : grown(joined, axis, length, times);
  }
  fit(place, whole, make(place, whole), wanted);
}

// The size of `length * times`: a number, or the symbol that `joined` has for it.
Axis Chunks::grown(const TensorSpec& joined, std::size_t axis, const Axis& length,
                   Int times) const {
  if (!is_symbol(length)) return std::get<Int>(length) * times;
  if (axis < joined.shape.size() && is_symbol(joined.shape[axis])) {
    const std::string& symbol = symbol_of(joined.shape[axis]);
    const Size* larger = mode.sizes.find(symbol);
    const Size* smaller = mode.sizes.find(symbol_of(length));
    const auto is = [](const Size* size, const std::string& of, Int by, Int over) {
      return size != nullptr && !size->param && size->symbol == of && size->times == by &&
             size->plus == 0 && size->divide == over;
    };
    if (is(larger, symbol_of(length), times, 1) || is(smaller, symbol, 1, times)) return symbol;
  }
  return text(length) + "*" + text(times);
}

}  // namespace edgereel_runtime
