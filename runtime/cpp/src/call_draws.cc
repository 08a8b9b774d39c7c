#include "call_draws.hpp"

#include <algorithm>

#include "call_start.hpp"
#include "errors.hpp"
#include "noise.hpp"
#include "ops.hpp"

namespace edgereel_runtime {
namespace {

bool digits(const std::string& text) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  return !text.empty() && std::all_of(text.begin(), text.end(), digit);
}

// A key with 0 for the number of its chunk.
std::string of_first_chunk(const std::string& key) {
  const std::size_t open = key.rfind('[');
  if (open == std::string::npos || key.back() != ']') return key;
  const bool numbered = digits(key.substr(open + 1, key.size() - open - 2));
  return numbered ? key.substr(0, open) + "[0]" : key;
}

// A key of the first chunk with 0 for the number of its step.
std::string of_first_step(const std::string& key) {
  const std::size_t end =
      key.size() - (key.size() > 3 && key.substr(key.size() - 3) == "[0]" ? 3 : 0);
  const std::size_t dot = key.rfind('.', end);
  const bool numbered = dot != std::string::npos && digits(key.substr(dot + 1, end - dot - 1));
  return numbered ? key.substr(0, dot) + ".0" + key.substr(end) : key;
}

}  // namespace

FirstKeys first_keys(const Mode& mode, const Values& params) {
  FirstKeys found;
  for (const Stage& stage : mode.stages) {
    const auto key = [&](const std::string& name, const Flag& shared) {
      return stage.each && !is_set(shared, params) ? name + "[0]" : name;
    };
    for (const Op& op : stage.ops) {
      if (const auto* noise = std::get_if<Noise>(&op)) {
        found.once.insert(key(noise->value, noise->shared));
      } else if (const auto* renoise = std::get_if<Renoise>(&op)) {
        found.once.insert(key(renoise->noise, renoise->shared_noise));
      } else if (const auto* denoise = std::get_if<Denoise>(&op)) {
        if (denoise->noise) found.steps.insert(key(*denoise->noise + ".0", denoise->shared_noise));
      }
    }
  }
  return found;
}

Draws::Draws(std::uint64_t seed, Arrays given, const FirstKeys& keys)
    : seed_(seed), given_(std::move(given)) {
  for (const auto& entry : given_) {
    const std::string key = of_first_chunk(entry.first);
    if (keys.once.count(key) || keys.steps.count(of_first_step(key))) continue;
    std::set<std::string> known = keys.once;
    known.insert(keys.steps.begin(), keys.steps.end());
    fail(Kind::kInput,
         "the given noise " + shown(entry.first) +
             " is not drawn in this mode; expected keys like " +
             (known.empty() ? "(it draws none)" : names(Words(known.begin(), known.end()))) +
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
