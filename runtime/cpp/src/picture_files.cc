#include "picture_files.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <system_error>

#include "errors.hpp"
#include "ffmpeg.hpp"
#include "files.hpp"

namespace edgereel_runtime {
namespace {

namespace fs = std::filesystem;

// Bilinear with a kernel that widens as the picture shrinks, without a detour over thinned colours.
const std::string kSws = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp";

std::string scale(const PixelSize& size) {
  return "scale=" + std::to_string(size.second) + ":" + std::to_string(size.first) +
         ":flags=" + kSws;
}

std::string pixels(const PixelSize& size) {
  return std::to_string(size.second) + " x " + std::to_string(size.first) + " pixels";
}

[[noreturn]] void unreadable(const std::string& name, const std::string& path,
                             const std::string& problem) {
  fail(Kind::kInput, name + " is " + shown(path) + ", which cannot be read (" + problem +
                         "); expected a video or picture that ffmpeg reads to its end. Convert "
                         "it, for example to an .mp4, or give another.");
}

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return text;
}

bool is_picture(const fs::path& path) {
  const std::string suffix = lower(path.extension().string());
  const bool known = suffix == ".png" || suffix == ".jpg" || suffix == ".jpeg";
  return known && !starts_with(path.filename().string(), ".");
}

// The segments of a JPEG until that of its frame, which says how many channels it has.
std::string refused_jpeg(const std::string& content) {
  const auto byte = [&](std::size_t i) {
    return i < content.size() ? static_cast<unsigned char>(content[i]) : 0u;
  };
  for (std::size_t at = 2; byte(at) == 0xFF;) {
    const unsigned marker = byte(at + 1);
    if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) {
      return byte(at + 9) == 4 ? "its colours are CMYK, not RGB" : "";
    }
    at += 2 + std::max(2u, byte(at + 2) << 8 | byte(at + 3));
  }
  return "";
}

// Why a file that ffmpeg opens is no picture to take, or nothing.
std::string refused(const std::string& content) {
  const std::size_t animated = content.find("acTL");
  if (starts_with(content, "\x89PNG") && animated < content.find("IDAT"))
    return "it is an animation";
  return starts_with(content, "\xFF\xD8") ? refused_jpeg(content) : "";
}

// One picture, u8 [1, H, W, 3]; ffmpeg gets its bytes, since it reads a '%' in a name.
Array picture(const std::string& name, const fs::path& path) {
  std::string content;
  try {
    content = read_file(path.string());
  } catch (const std::system_error& error) {
    unreadable(name, path.string(), error.code().message());
  }
  const std::string what = refused(content);
  if (!what.empty()) unreadable(name, path.string(), what);
  Ffmpeg ffmpeg({"-i", "pipe:0", "-frames:v", "1", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f",
                 "image2pipe", "pipe:1"});
  const std::string out = ffmpeg.exchange(content.data(), content.size());
  const std::string problem = ffmpeg.finish();
  std::istringstream header(out.substr(0, 64));  // P6, width and height, 255, pixels
  std::string kind;
  std::int64_t width = 0, height = 0, largest = 0;
  header >> kind >> width >> height >> largest;
  if (!problem.empty() || kind != "P6" || width < 1 || height < 1) {
    unreadable(name, path.string(), problem.empty() ? "it shows nothing" : problem);
  }
  Array frame(DType::kUint8, {1, height, width, 3});
  if (out.size() < frame.bytes()) unreadable(name, path.string(), "it is cut");
  std::memcpy(frame.raw(), &out[out.size() - frame.bytes()], frame.bytes());
  return frame;
}

PixelSize size_of(const Array& frames) { return {frames.dims()[1], frames.dims()[2]}; }

// Pictures in the order of their names, all of the first one's size.
Clip of_pictures(const std::string& name, const std::string& source,
                 const std::vector<fs::path>& paths) {
  if (paths.empty()) {
    fail(Kind::kInput, name + " is the folder " + shown(source) +
                           ", which has no pictures; expected .png or .jpg files. Correct the "
                           "path, or give a video file.");
  }
  const PixelSize size = size_of(picture(name, paths[0]));
  const auto take = [=](const Indices& indices, const PixelSize& to) {
    Array frames(DType::kUint8,
                 {static_cast<std::int64_t>(indices.size()), size.first, size.second, 3});
    std::map<std::int64_t, Array> read;
    for (std::size_t i = 0; i < indices.size(); ++i) {
      const fs::path& path = paths[static_cast<std::size_t>(indices[i])];
      if (read.count(indices[i]) == 0) read[indices[i]] = picture(name, path);
      const Array& one = read[indices[i]];
      if (size_of(one) != size) {
        fail(Kind::kInput, name + " has " + path.filename().string() + " of " +
                               pixels(size_of(one)) + "; expected " + pixels(size) + ", as " +
                               paths[0].filename().string() + " has. Give pictures of one size.");
      }
      std::memcpy(frames.raw() + i * one.bytes(), one.raw(), one.bytes());
    }
    return scaled(name, frames, to);
  };
  return {static_cast<std::int64_t>(paths.size()), std::nullopt, size, take};
}

// The options for one local file, every frame of its picture once.
std::vector<std::string> input(const std::string& path) {
  return {"-nostdin",
          "-protocol_whitelist",
          "file",
          "-i",
          "file:" + fs::absolute(path).string(),
          "-map",
          "0:v:0",
          "-fps_mode",
          "passthrough"};
}

// Whether a file begins like UTF-8 text; its last letter may be cut.
bool is_text(const std::string& start) {
  for (std::size_t at = 0; at < start.size();) {
    const std::size_t before = at;
    const std::int32_t c = next_code_point(start, at);
    if (c == 0 || (c < 0 && before <= 4096 - 4)) return false;
    if (c < 0) return true;
  }
  return !start.empty();
}

// The frames of these indices; ffmpeg is stopped behind the last of them.
Array decoded(const std::string& name, const std::string& path, const Indices& indices,
              const PixelSize& size) {
  Array frames(DType::kUint8,
               {static_cast<std::int64_t>(indices.size()), size.first, size.second, 3});
  std::vector<std::string> command = input(path);
  const std::string filters = "scale=flags=" + kSws + ",format=rgb24," + scale(size);
  for (const std::string& word :
       {std::string("-vf"), filters, std::string("-f"), std::string("rawvideo"),
        std::string("-pix_fmt"), std::string("rgb24"), std::string("pipe:1")}) {
    command.push_back(word);
  }
  Ffmpeg ffmpeg(command);
  const std::size_t length = frames[0].bytes();
  std::string one(length, '\0');
  std::size_t done = 0;
  for (std::int64_t index = 0; index <= indices.back(); ++index) {
    if (ffmpeg.read(one.data(), length) < length) break;
    for (; done < indices.size() && indices[done] == index; ++done) {
      std::memcpy(frames.raw() + done * length, one.data(), length);
    }
  }
  if (done < indices.size()) unreadable(name, path, ffmpeg.finish());
  return frames;
}

// What `-f framecrc` says of a file: how many frames, when, how large.
struct About {
  std::int64_t count = 0, first = 0, last = 0, num = 0, den = 1, width = 0, height = 0;
};

About about(const std::string& told) {
  About found;
  std::istringstream lines(told);
  for (std::string line; std::getline(lines, line);) {
    std::sscanf(line.c_str(), "#tb 0: %ld/%ld", &found.num, &found.den);
    std::sscanf(line.c_str(), "#dimensions 0: %ldx%ld", &found.width, &found.height);
    std::int64_t time = 0, duration = 0;
    if (std::sscanf(line.c_str(), "%*d, %*d, %ld, %ld", &time, &duration) != 2) continue;
    if (found.count++ == 0) found.first = time;
    found.last = time + duration;
  }
  return found;
}

// A file, decoded once to find damage, and what is certain only then: frames, times, size.
Clip of_video(const std::string& name, const std::string& path) {
  std::string start(4096, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<std::size_t>(file.gcount()));
  if (is_text(start)) unreadable(name, path, "it is a text");
  std::vector<std::string> command = input(path);
  for (const char* word : {"-f", "framecrc", "pipe:1"}) command.push_back(word);
  Ffmpeg ffmpeg(command);
  const About found = about(ffmpeg.exchange("", 0));
  const std::string problem = ffmpeg.finish();
  if (!problem.empty()) unreadable(name, path, problem);
  if (found.count == 0) unreadable(name, path, "it has no frames");
  std::optional<double> fps;
  const std::int64_t ticks = found.last - found.first;
  if (ticks > 0) {
    fps = static_cast<double>(found.count * found.den) / static_cast<double>(ticks * found.num);
  }
  const auto take = [=](const Indices& indices, const PixelSize& size) {
    return decoded(name, path, indices, size);
  };
  return {found.count, fps, {found.height, found.width}, take};
}

}  // namespace

Clip open_path(const std::string& name, const std::string& path) {
  try {
    if (fs::is_directory(path)) {
      std::vector<fs::path> pictures;
      for (const auto& entry : fs::directory_iterator(path)) {
        if (is_picture(entry.path())) pictures.push_back(entry.path());
      }
      std::sort(pictures.begin(), pictures.end());
      return of_pictures(name, path, pictures);
    }
    if (fs::is_regular_file(path)) {
      return is_picture(path) ? of_pictures(name, path, {path}) : of_video(name, path);
    }
  } catch (const std::system_error& error) {
    unreadable(name, path, error.code().message());
  }
  fail(Kind::kInput, name + " is " + shown(path) +
                         ", and there is no such file; expected a video file, a folder of PNG or "
                         "JPEG pictures, or an .npz. Correct the path.");
}

Array scaled(const std::string& name, const Array& frames, const PixelSize& size) {
  if (size_of(frames) == size) return frames;
  const std::string from =
      std::to_string(frames.dims()[2]) + "x" + std::to_string(frames.dims()[1]);
  Ffmpeg ffmpeg({"-f", "rawvideo", "-pix_fmt", "rgb24", "-s", from, "-i", "pipe:0", "-vf",
                 scale(size), "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"});
  const std::string out = ffmpeg.exchange(frames.raw(), frames.bytes());
  const std::string problem = ffmpeg.finish();
  Array made(DType::kUint8, {frames.dims()[0], size.first, size.second, 3});
  if (!problem.empty() || out.size() != made.bytes()) {
    fail(Kind::kInput, name + " cannot be scaled from " + pixels(size_of(frames)) + " to " +
                           pixels(size) + " (" + (problem.empty() ? "ffmpeg stopped" : problem) +
                           "); expected an ordinary size. Scale it before.");
  }
  std::memcpy(made.raw(), out.data(), out.size());
  return made;
}

}  // namespace edgereel_runtime
