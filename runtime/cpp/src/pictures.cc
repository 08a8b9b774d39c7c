#include "pictures.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "errors.hpp"
#include "picture_files.hpp"

namespace edgereel_runtime {
namespace {

// What seconds times a rate may lack to the whole number of frames that was meant.
constexpr double kSlack = 1e-6;
constexpr std::int64_t kLargest = 16384;  // pixels on a side, which no network here comes near

std::int64_t floored(double number) { return static_cast<std::int64_t>(std::floor(number)); }

// Which frames of a source are wanted.
Indices frame_indices(const std::string& name, const Clip& clip, const WantedFrames& wanted) {
  const std::optional<double> fps = clip.fps ? clip.fps : wanted.fps;
  if (!fps && (wanted.start > 0 || wanted.end)) {
    fail(Kind::kInput, name +
                           " is pictures without a rate, of which a part in seconds is asked for; "
                           "expected a video file. Leave start and end away, or give a video "
                           "file.");
  }
  const double rate = fps.value_or(1.0), length = static_cast<double>(clip.count) / rate;
  const double end = wanted.end ? std::min(*wanted.end, length) : length;
  const std::int64_t first = floored(wanted.start * rate + kSlack);
  const std::int64_t last = floored(end * rate + kSlack);
  std::int64_t found = last - first;
  if (wanted.fps && found > 0) found = floored((end - wanted.start) * *wanted.fps + kSlack);
  if (found < 1) {
    fail(Kind::kInput, name + " has no frame from " + general(wanted.start) + " s to " +
                           general(end) + " s; expected a part of its " +
                           std::to_string(clip.count) + " frames, which last " + general(length) +
                           " s. Change start, end or the rate.");
  }
  if (found < wanted.frames.value_or(0)) {
    fail(Kind::kInput, name + " has " + std::to_string(found) + " frames; expected at least " +
                           std::to_string(*wanted.frames) +
                           ". Give a longer one, or ask for fewer frames.");
  }
  Indices taken;
  const std::int64_t count = wanted.frames.value_or(found), skip = wanted.last ? found - count : 0;
  for (std::int64_t i = 0; i < count; ++i) {
    taken.push_back(first + (i + skip) * (last - first) / found);
  }
  return taken;
}

std::int64_t rounded(double number) { return static_cast<std::int64_t>(std::nearbyint(number)); }

// Height and width after scaling.
PixelSize scaled_size(const PixelSize& size, const WantedFrames& wanted) {
  const auto height = static_cast<double>(size.first), width = static_cast<double>(size.second);
  if (wanted.cover) {
    const auto [to_height, to_width] = *wanted.cover;
    const double larger =
        std::max(static_cast<double>(to_height) / height, static_cast<double>(to_width) / width);
    return {std::max(to_height, rounded(height * larger)),
            std::max(to_width, rounded(width * larger))};
  }
  if (!wanted.longest) return size;
  const double unit = std::max(height, width) * static_cast<double>(wanted.multiple);
  const double longest = static_cast<double>(*wanted.longest);
  const auto side = [&](double pixels) {
    return std::max<std::int64_t>(1, rounded(pixels * longest / unit)) * wanted.multiple;
  };
  return {side(height), side(width)};
}

// Frames cut to a size around their middle.
Array middle(const Array& frames, const std::optional<PixelSize>& size) {
  if (!size) return frames;
  const std::int64_t top = (frames.dims()[1] - size->first) / 2;
  const std::int64_t left = (frames.dims()[2] - size->second) / 2;
  return frames.part(std::size_t(1), top, top + size->first)
      .part(std::size_t(2), left, left + size->second);
}

// Floats in 0..1 as u8.
Array as_levels(const std::string& name, const Array& floats) {
  const float* from = floats.as<float>();
  const auto [low, high] = std::minmax_element(from, from + floats.count());
  const bool numbers = std::none_of(from, from + floats.count(), [](float x) { return x != x; });
  if (!(numbers && *low >= 0 && *high <= 1)) {
    fail(Kind::kInput, name + " has values from " + general(numbers ? *low : NAN) + " to " +
                           general(numbers ? *high : NAN) +
                           "; expected floats from 0 to 1. Scale them, or convert them to uint8.");
  }
  Array levels(DType::kUint8, floats.dims());
  for (std::size_t i = 0; i < floats.count(); ++i) {
    levels.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(std::nearbyint(from[i] * 255));
  }
  return levels;
}

// Grey frames [F, H, W] in three equal channels.
Array coloured(const Array& grey) {
  Dims dims = grey.dims();
  dims.push_back(3);
  Array frames(DType::kUint8, dims);
  for (std::size_t i = 0; i < frames.count(); ++i) {
    frames.as<std::uint8_t>()[i] = grey.as<std::uint8_t>()[i / 3];
  }
  return frames;
}

Array taken(const Array& array, const Indices& indices) {
  Dims dims = array.dims();
  dims[0] = static_cast<std::int64_t>(indices.size());
  Array out(array.dtype(), dims);
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const Array one = array[indices[i]];
    std::memcpy(out.raw() + i * one.bytes(), one.raw(), one.bytes());
  }
  return out;
}

// Frames [F, H, W, 3] or, of grey ones, [F, H, W]; u8 0..255 or floats 0..1.
Clip of_array(const std::string& name, const Array& array) {
  const Dims& dims = array.dims();
  const bool whole = array.dtype() == DType::kUint8;
  const bool framed = dims.size() == 3 || (dims.size() == 4 && dims[3] == 3);
  const bool empty = std::find(dims.begin(), dims.end(), 0) != dims.end();
  if (!framed || empty || !(whole || array.dtype() == DType::kFloat32)) {
    fail(Kind::kInput, name + " is " + described(array) +
                           "; expected uint8, or float32 from 0 to 1, as [frames, height, width, "
                           "3] or [frames, height, width]. Convert it.");
  }
  const auto take = [=](const Indices& indices, const PixelSize& size) {
    Array frames = taken(array, indices);
    if (!whole) frames = as_levels(name, frames);
    if (frames.dims().size() == 3) frames = coloured(frames);
    return scaled(name, frames, size);
  };
  return {dims[0], std::nullopt, {dims[1], dims[2]}, take};
}

void check_clip(const std::string& name, const Clip& clip, const WantedFrames& wanted) {
  if (wanted.still && clip.count > 1) {
    fail(Kind::kInput, name + " has " + std::to_string(clip.count) +
                           " frames; expected one picture. Give one of them as a file.");
  }
  const auto [height, width] = clip.size;
  if (std::max(height, width) > kLargest) {
    fail(Kind::kInput, name + " is " + std::to_string(width) + " x " + std::to_string(height) +
                           " pixels; expected at most " + std::to_string(kLargest) +
                           " on a side. Scale it before.");
  }
}

}  // namespace

Array read_frames(const std::string& name, const Value& source, const WantedFrames& wanted) {
  if (wanted.filter) {
    fail(Kind::kUnavailable, "Finding edges needs OpenCV, which the C++ runtime does not use. " +
                                 name +
                                 " was expected without a filter. Use Edgereel from Python for "
                                 "this mode.");
  }
  const auto* path = std::get_if<std::string>(&source);
  const Clip clip =
      path != nullptr ? open_path(name, *path) : of_array(name, std::get<Array>(source));
  check_clip(name, clip, wanted);
  const Indices indices = frame_indices(name, clip, wanted);
  return middle(clip.take(indices, scaled_size(clip.size, wanted)), wanted.cover);
}

}  // namespace edgereel_runtime
