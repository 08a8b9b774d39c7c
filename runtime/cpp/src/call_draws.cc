#include "call_draws.hpp"

#include <algorithm>
#include <set>

#include "errors.hpp"
#include "noise.hpp"
#include "ops.hpp"

namespace edgereel_runtime {
namespace {

bool digits(const std::string& text) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  return !text.empty() && std::all_of(text.begin(), text.end(), digit);
}

// A key without the chunk behind it.
std::string without_chunk(const std::string& key) {
  const std::size_t open = key.rfind('[');
  if (open == std::string::npos || key.back() != ']') return key;
  return digits(key.substr(open + 1, key.size() - open - 2)) ? key.substr(0, open) : key;
}

}  // namespace

Draws::Draws(std::uint64_t seed, Arrays given, const Mode& mode)
    : seed_(seed), given_(std::move(given)) {
  std::set<std::string> once, steps;
  for (const Stage& stage : mode.stages) {
    for (const Op& op : stage.ops) {
      if (const auto* noise = std::get_if<Noise>(&op)) once.insert(noise->value);
      if (const auto* renoise = std::get_if<Renoise>(&op)) once.insert(renoise->noise);
      const auto* denoise = std::get_if<Denoise>(&op);
      if (denoise != nullptr && denoise->noise) steps.insert(*denoise->noise);
    }
  }
  for (const auto& entry : given_) {
    const std::string whole = without_chunk(entry.first);
    const std::size_t dot = whole.rfind('.');
    const bool of_step = dot != std::string::npos && steps.count(whole.substr(0, dot)) &&
                         digits(whole.substr(dot + 1));
    if (once.count(whole) || of_step) continue;
    Words known(once.begin(), once.end());
    for (const std::string& stream : steps) known.push_back(stream + ".0");
    fail(Kind::kInput, "the given noise " + shown(entry.first) +
                           " is not drawn in this mode; expected keys like " +
                           (known.empty() ? "(it draws none)" : names(known)) +
                           ". Correct the key, or drop it.");
  }
}

Array Draws::draw(const Wanted& wanted) const {
  std::string key = wanted.name;
  if (wanted.step) key += "." + std::to_string(*wanted.step);
  if (wanted.chunk) key += "[" + std::to_string(*wanted.chunk) + "]";
  const Array* given = given_.find(key);
  if (given == nullptr) {
    Array drawn(DType::kFloat32, wanted.dims);
    normal({seed_, wanted.name, static_cast<std::uint32_t>(wanted.chunk.value_or(0)),
            static_cast<std::uint32_t>(wanted.step.value_or(0))},
           drawn.as<float>(), drawn.count());
    return drawn;
  }
  Array array = *given;
  if (wanted.part && array.dims().size() == wanted.dims.size() &&
      array.dims()[0] >= wanted.dims[0]) {
    array = array.part(0, wanted.dims[0]);
  }
  if (array.dims() != wanted.dims || array.dtype() != DType::kFloat32) {
    fail(Kind::kInput, "the given noise " + shown(key) + " is " + described(array) +
                           "; expected float32 " + listed(wanted.dims) +
                           ". Save it in that shape.");
  }
  return array;
}

}  // namespace edgereel_runtime
