// Calls ffmpeg, which reads and writes all video files: the program that IMAGEIO_FFMPEG_EXE names,
// or `ffmpeg` on the PATH.
#pragma once

#include <sys/types.h>

#include <cstdio>
#include <string>
#include <vector>

namespace edgereel_runtime {

// ffmpeg at work, with pipes to its input and output; what it complains of is kept in a file.
class Ffmpeg {
 public:
  // Starts it quiet but for errors, in a folder, "" being this one; throws Error if it does not
  // start.
  explicit Ffmpeg(const std::vector<std::string>& arguments, const std::string& folder = "");
  ~Ffmpeg();  // stops it if it still runs
  Ffmpeg(const Ffmpeg&) = delete;
  Ffmpeg& operator=(const Ffmpeg&) = delete;

  bool write(const char* bytes, std::size_t count);            // false: it takes no more
  std::size_t read(char* bytes, std::size_t count);            // less at its end
  std::string exchange(const char* bytes, std::size_t count);  // writes, and reads to the end

  // Waits for the end; what went wrong, or nothing.
  std::string finish();

 private:
  std::string complaints() const;

  pid_t process_ = -1;
  int in_ = -1, out_ = -1;
  std::FILE* errors_ = nullptr;
};

}  // namespace edgereel_runtime
