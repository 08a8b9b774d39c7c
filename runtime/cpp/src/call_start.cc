#include "call_start.hpp"

#include <algorithm>
#include <cmath>

#include "errors.hpp"
#include "pictures.hpp"
#include "plan_scope.hpp"

namespace edgereel_runtime {
namespace {

template <typename T>
std::optional<double> real(const std::optional<T>& field, const Values& params) {
  if (!field) return std::nullopt;
  return as_double(number_of(*field, params));
}

// As `real`, where 0 says none.
template <typename T>
std::optional<double> nonzero(const std::optional<T>& field, const Values& params) {
  const auto found = real(field, params);
  return found && *found != 0 ? found : std::nullopt;
}

std::optional<std::int64_t> whole(const std::optional<double>& number) {
  if (!number) return std::nullopt;
  return static_cast<std::int64_t>(*number);
}

WantedFrames wanted_of(const Param& param, const Values& params) {
  WantedFrames wanted;
  wanted.start = real(param.start, params).value_or(0);
  wanted.end = nonzero(param.end, params);
  wanted.fps = nonzero(param.fps, params);
  wanted.frames = whole(nonzero(param.frames, params));
  wanted.last = param.last;
  const auto* count = param.frames ? std::get_if<Int>(&*param.frames) : nullptr;
  wanted.still = count != nullptr && *count == 1;
  wanted.longest = whole(real(param.longest, params));
  wanted.multiple = static_cast<std::int64_t>(param.multiple);
  if (param.height && param.width) {
    wanted.cover = {*whole(real(param.height, params)), *whole(real(param.width, params))};
  }
  wanted.filter = param.filter;
  return wanted;
}

// The sizes found so far, and where each is from, to begin a sentence.
struct Found {
  Numbers sizes;
  Named<std::string> said;

  void add(const std::string& symbol, std::int64_t size, const std::string& why) {
    sizes.entries.emplace_back(symbol, size);
    said.entries.emplace_back(symbol, why);
  }
};

// The size of a video's axis as the beginning of a sentence.
std::string axis_of(const Mode& mode, const std::string& name, const Array& frames,
                    std::size_t axis) {
  const std::string number = std::to_string(frames.dims()[axis]);
  const std::string words[] = {"has " + number + " frames", "is " + number + " pixels high",
                               "is " + number + " pixels wide"};
  const bool scaled = axis > 0 && mode.params.at(name).longest;
  return name + " " + words[axis] + (scaled ? " after scaling" : "");
}

// The size of a symbol whose source is `number`, which must go even.
std::int64_t resized(Int number, const Size& size, const std::string& said) {
  const Int all = number * size.times + size.plus;
  const Int found = all / size.divide, rest = all % size.divide;
  if (rest != 0 && size.times == 1 && size.plus == 0) {
    const double times =
        std::nearbyint(static_cast<double>(number) / static_cast<double>(size.divide));
    const Int near = std::max<Int>(1, static_cast<Int>(times)) * size.divide;
    fail(Kind::kInput, said + "; expected a multiple of " + text(size.divide) +
                           ". Make it, for example, " + text(near) + ".");
  }
  if (rest != 0 || found < 1 || found > INT32_MAX) {
    const std::string sign = size.plus < 0 ? "" : "+";
    fail(Kind::kInput, said + "; expected a number n for which (n * " + text(size.times) + " " +
                           sign + text(size.plus) + ") / " + text(size.divide) +
                           " is a whole number above 0. Change it.");
  }
  return static_cast<std::int64_t>(found);
}

void check_videos(const Mode& mode, const Arrays& videos, const Found& found) {
  for (const auto& [name, frames] : videos) {
    const Shape& shape = mode.values.at(name).shape;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      const bool symbol = is_symbol(shape[axis]);
      const std::int64_t number = symbol ? found.sizes.at(symbol_of(shape[axis]))
                                         : static_cast<std::int64_t>(std::get<Int>(shape[axis]));
      if (frames.dims()[axis] == number) continue;
      const std::string why =
          symbol ? "as " + found.said.at(symbol_of(shape[axis])) : "as the cascade needs";
      fail(Kind::kInput, axis_of(mode, name, frames, axis) + "; expected " +
                             std::to_string(number) + ", " + why + ". Change it, or give another.");
    }
  }
}

}  // namespace

Scalar number_of(const Number& field, const Values& params) {
  const auto* ref = std::get_if<Ref>(&field);
  if (ref == nullptr) return std::get<double>(field);
  const Value& value = params.at(ref->param);
  if (const auto* whole = std::get_if<Int>(&value)) return *whole;
  return std::get<double>(value);
}

Scalar number_of(const Whole& field, const Values& params) {
  if (const auto* ref = std::get_if<Ref>(&field)) return number_of(Number(*ref), params);
  return std::get<Int>(field);
}

const std::string& word_of(const Word& field, const Values& params) {
  const auto* ref = std::get_if<Ref>(&field);
  return ref != nullptr ? std::get<std::string>(params.at(ref->param))
                        : std::get<std::string>(field);
}

bool is_set(const Flag& field, const Values& params) {
  const auto* ref = std::get_if<Ref>(&field);
  return ref != nullptr ? std::get<Int>(params.at(ref->param)) != 0 : std::get<bool>(field);
}

Arrays read_videos(const Mode& mode, const Values& params) {
  Arrays videos;
  for (const auto& [name, param] : mode.params) {
    if (param.type != ParamType::kVideo) continue;
    videos.entries.emplace_back(name, read_frames(name, params.at(name), wanted_of(param, params)));
  }
  return videos;
}

Numbers start_sizes(const Mode& mode, const Values& params, const Arrays& videos) {
  Found found;
  for (const auto& [symbol, size] : mode.sizes) {
    if (!size.param) continue;
    const Int number = std::get<Int>(params.at(*size.param));
    const std::string said = *size.param + " is " + text(number);
    found.add(symbol, resized(number, size, said), said);
  }
  for (const auto& [name, frames] : videos) {
    const Shape& shape = mode.values.at(name).shape;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      if (!is_symbol(shape[axis])) continue;
      const std::string& symbol = symbol_of(shape[axis]);
      if (mode.sizes.has(symbol) || found.sizes.has(symbol)) continue;
      found.add(symbol, frames.dims()[axis], axis_of(mode, name, frames, axis));
    }
  }
  for (const auto& [symbol, size] : mode.sizes) {
    if (!size.symbol || !found.said.has(*size.symbol)) continue;  // others are of a window
    const std::string said = found.said.at(*size.symbol);
    found.add(symbol, resized(found.sizes.at(*size.symbol), size, said), said);
  }
  check_videos(mode, videos, found);
  return found.sizes;
}

}  // namespace edgereel_runtime
