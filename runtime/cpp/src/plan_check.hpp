// What must hold inside and between the parts of a plan, checked before any engine loads.
#pragma once

#include "plan_format.hpp"

namespace edgereel_runtime {

// Throws Error, naming the place, if the parts of `plan` do not fit together.
void check_plan(const Document& plan);

}  // namespace edgereel_runtime
