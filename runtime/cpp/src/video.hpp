// Writes frames to an mp4: whole or not at all.
#pragma once

#include <string>

#include "array.hpp"

namespace edgereel_runtime {

// u8 [F, H, W, 3], at frames per second; the file is that of video.py. Throws Error.
void save(const Array& frames, double fps, const std::string& path);

}  // namespace edgereel_runtime
