// What a mode has before its first op: params as values, videos, and symbols with a size.
#pragma once

#include "plan_scope.hpp"

namespace edgereel_runtime {

// Adds the values and symbols that exist from the start to `scope`; throws Error if a param cannot
// be the value of its name, or a size comes from nowhere.
void check_start(Scope& scope, const std::string& place);

}  // namespace edgereel_runtime
