// Reads frames that a user gives: a video file, a folder of pictures, or an array.
// engines/README.md has the rule under "Videos".
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "params.hpp"

namespace edgereel_runtime {

using PixelSize = std::pair<std::int64_t, std::int64_t>;  // height, width

// What a plan asks of a video; none leaves it as it is.
struct WantedFrames {
  double start = 0;  // seconds
  std::optional<double> end, fps;
  std::optional<std::int64_t> frames, longest;
  std::int64_t multiple = 1;
  std::optional<std::string> filter;
  bool last = false, still = false;
  std::optional<PixelSize> cover;
};

// The frames of a path or of an array, u8 [F, H, W, 3]; throws Error.
Array read_frames(const std::string& name, const Value& source, const WantedFrames& wanted);

}  // namespace edgereel_runtime
