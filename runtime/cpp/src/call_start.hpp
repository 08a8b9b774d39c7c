// What a call has before its first op: the videos a user gave, and the sizes they and params set.
#pragma once

#include "backend.hpp"
#include "params.hpp"

namespace edgereel_runtime {

using Numbers = Named<std::int64_t>;  // the sizes of symbols

// A literal of the plan, or what the user gave for the param it refers to.
Scalar number_of(const Number& field, const Values& params);
Scalar number_of(const Whole& field, const Values& params);
const std::string& word_of(const Word& field, const Values& params);
bool is_set(const Flag& field, const Values& params);

// The frames of every video param, u8 [F, H, W, 3], by name; throws Error.
Arrays read_videos(const Mode& mode, const Values& params);

// The size of every symbol that has one from the start; all videos have those sizes. Throws Error
// where a size cannot be divided, or a video has another size than it must.
Numbers start_sizes(const Mode& mode, const Values& params, const Arrays& videos);

}  // namespace edgereel_runtime
