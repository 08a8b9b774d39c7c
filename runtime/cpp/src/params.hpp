// What a user gave, as the params of a mode: spellings, types, ranges, defaults.
#pragma once

#include <string>
#include <variant>

#include "array.hpp"
#include "plan_format.hpp"

namespace edgereel_runtime {

// A text, a number, or the frames of a video.
using Value = std::variant<std::string, Int, double, Array>;
using Values = Named<Value>;

// A value for every param of the mode, in the plan's order; throws Error for an unknown name, two
// spellings of one param, a missing param, or a value of the wrong type or out of range.
Values fill_params(const Mode& mode, const Values& given);

}  // namespace edgereel_runtime
