// Video files and folders of pictures, opened with ffmpeg, which sees local files only.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pictures.hpp"

namespace edgereel_runtime {

using Indices = std::vector<std::int64_t>;

// A source of frames before any is taken from it.
struct Clip {
  std::int64_t count = 0;
  std::optional<double> fps;  // none: pictures without a time
  PixelSize size;
  std::function<Array(const Indices&, const PixelSize&)> take;  // never falling indices, scaled
};

// The frames of a video file, of a folder of pictures, or of one picture; throws Error.
Clip open_path(const std::string& name, const std::string& path);

// Frames of another size, u8 [F, H, W, 3]; throws Error for one that ffmpeg cannot make.
Array scaled(const std::string& name, const Array& frames, const PixelSize& size);

}  // namespace edgereel_runtime
