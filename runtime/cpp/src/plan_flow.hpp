// The flow of values through a mode, walked as the interpreter will walk it.
#pragma once

#include <string>

#include "plan_format.hpp"

namespace edgereel_runtime {

// Throws Error, naming the place, if a value, symbol or reference of a mode is wrong.
void check_flow(const Document& plan, const Mode& mode, const std::string& place);

}  // namespace edgereel_runtime
