// What exists at one point of a mode: values, sizes of symbols, and how they are looked up.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <utility>

#include "errors.hpp"
#include "plan_format.hpp"

namespace edgereel_runtime {

using Sizes = Named<Axis>;  // symbol -> a number or another symbol
using Set = std::set<std::string>;

// The least that a number can be, and whether it must be whole.
struct Bound {
  std::optional<Scalar> least;
  bool whole = false;
};

// The values that the next op may read; every lookup fails with an Error at its place.
class Scope {
 public:
  explicit Scope(const Mode& mode) : mode(mode) {}

  const TensorSpec& declared(const std::string& place, const std::string& name) const;
  const TensorSpec& read(const std::string& place, const std::string& name);
  const TensorSpec& make(const std::string& place, const std::string& name);

  template <typename T>
  static const T& find(const std::string& place, const std::string& name, const Named<T>& table,
                       const std::string& kind) {
    const T* found = table.find(name);
    if (found == nullptr) {
      wrong(place, shown(name) + " is not a " + kind, "one of " + names(table.keys()));
    }
    return *found;
  }

  // Checks a literal or a reference to a numeric param, and the least it can be.
  void number(const std::string& place, const Number& number, const Bound& bound);
  void number(const std::string& place, const Whole& number, const Bound& bound);
  void referred(const std::string& place, const std::string& param, const Bound& bound);

  // Checks a reference to a choice param that can only be one of `allowed`.
  void choice(const std::string& place, const Word& word, const Words& allowed);

  const Mode& mode;
  Set made;     // every value made so far
  Set visible;  // those that the next op may read
  Set sized;    // symbols with a size
  Set used;     // params and values that something reads

 private:
  void check_sizes(const std::string& place, const std::string& name, const TensorSpec& spec) const;
  static void check_least(const std::string& place, const std::optional<Scalar>& low,
                          const Bound& bound);
};

// The axis that a window's symbol cuts a value on, and how many entries make one of it.
std::optional<std::pair<std::size_t, Int>> cut(const Mode& mode, const std::string& value,
                                               const std::string& symbol);

// The size, a number or a symbol, of the axes that a window of a checked plan cuts.
Axis window_length(const Mode& mode, const Each& each, const std::string& symbol);

std::string text(const Axis& axis);
std::string shown(const Axis& axis);  // a symbol in quotation marks, a number without
std::string names(const Set& words);

// A value with its dtype and shape, for a sentence.
std::string described(const TensorSpec& spec);
std::string described(const std::string& name, const TensorSpec& spec);

// Fails unless `spec` is `wanted`; with `sizes`, the symbols of `wanted` get sizes from it.
void fit(const std::string& place, const std::string& name, const TensorSpec& spec,
         const TensorSpec& wanted, Sizes* sizes = nullptr);

bool is_symbol(const Axis& axis);
const std::string& symbol_of(const Axis& axis);

}  // namespace edgereel_runtime
