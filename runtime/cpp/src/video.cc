#include "video.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "errors.hpp"
#include "ffmpeg.hpp"
#include "files.hpp"
#include "words.hpp"

namespace edgereel_runtime {
namespace {

namespace fs = std::filesystem;

void check(const Array& frames, double fps, const std::string& path) {
  const Dims& dims = frames.dims();
  if (dims.size() != 4 || dims[3] != 3 || frames.count() == 0) {
    fail(Kind::kInput, "Frames are " + described(frames) +
                           ". Expected uint8 [frames, height, width, 3], none of them 0. Convert "
                           "them first.");
  }
  if (!(std::isfinite(fps) && fps > 0)) {
    fail(Kind::kInput, "fps is " + text(fps) + ". Expected a number above 0. Pass another fps.");
  }
  std::string suffix = fs::path(path).extension().string();
  for (char& c : suffix) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  if (suffix != ".mp4") {
    fail(Kind::kInput, "Cannot write " + path + ": the suffix " + suffix +
                           " is not supported. Expected .mp4. Change the output's name.");
  }
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    fail(Kind::kOutput, path +
                            " exists and is not a file. A new name or a video file was expected. "
                            "Choose another name.");
  }
  check_place(path);
}

// Frames with even height and width, the last row or column repeated where needed.
Array even(const Array& frames) {
  const Dims& dims = frames.dims();
  const std::int64_t height = dims[1] + dims[1] % 2, width = dims[2] + dims[2] % 2;
  if (height == dims[1] && width == dims[2]) return frames;
  Array out(frames.dtype(), {dims[0], height, width, 3});
  for (std::int64_t f = 0; f < dims[0]; ++f) {
    for (std::int64_t y = 0; y < height; ++y) {
      const Array from = frames[f][std::min(y, dims[1] - 1)], to = out[f][y];
      std::memcpy(to.raw(), from.raw(), from.bytes());
      if (width > dims[2]) std::memcpy(to[width - 1].raw(), from[dims[2] - 1].raw(), 3);
    }
  }
  return out;
}

// A file that is removed again unless it is kept.
class Temporary {
 public:
  explicit Temporary(const std::string& target) : path(temporary(target)) {}
  ~Temporary() { std::remove(path.c_str()); }

  const std::string path;
};

}  // namespace

void save(const Array& given, double fps, const std::string& path) {
  check(given, fps, path);
  const Array frames = even(given);
  const Temporary part(path);
  char rate[64];
  std::snprintf(rate, sizeof rate, "%.6f", fps);
  const std::string size =
      std::to_string(frames.dims()[2]) + "x" + std::to_string(frames.dims()[1]);
  // Run beside the output, so that no path needs escaping. BT.709, and the file says so.
  Ffmpeg ffmpeg({"-y",
                 "-f",
                 "rawvideo",
                 "-pix_fmt",
                 "rgb24",
                 "-s",
                 size,
                 "-framerate",
                 rate,
                 "-i",
                 "pipe:0",
                 "-vf",
                 "scale=out_color_matrix=bt709:out_range=tv",
                 "-sws_flags",
                 "bicubic+accurate_rnd+full_chroma_int",
                 "-c:v",
                 "libx264",
                 "-pix_fmt",
                 "yuv420p",
                 "-crf",
                 "18",
                 "-colorspace",
                 "bt709",
                 "-color_primaries",
                 "bt709",
                 "-color_trc",
                 "bt709",
                 "-color_range",
                 "tv",
                 "-movflags",
                 "+faststart",
                 "-f",
                 "mp4",
                 fs::path(part.path).filename().string()},
                fs::path(path).parent_path().string());
  ffmpeg.write(frames.raw(), frames.bytes());
  const std::string problem = ffmpeg.finish();
  if (!problem.empty()) {
    fail(Kind::kOutput, "ffmpeg could not write the video: " + problem +
                            ". Expected it to finish. Check free space and permissions of the "
                            "output's folder.");
  }
  std::error_code error;
  fs::rename(part.path, path, error);
  if (error) fail(Kind::kOutput, cannot_write(path, error.message()));
}

}  // namespace edgereel_runtime
