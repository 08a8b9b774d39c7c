// Runs one call: a loop over stages, and a visit of ops. It knows ops, never models.
#pragma once

#include "call.hpp"
#include "interpreter.hpp"

namespace edgereel_runtime {

// Throws Error, or std::bad_alloc.
Result run_call(Interpreter& interpreter, const Call& call, const RunOptions& options);

}  // namespace edgereel_runtime
