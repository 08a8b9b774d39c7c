#include "ffmpeg.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "errors.hpp"
#include "words.hpp"

extern char** environ;

namespace edgereel_runtime {
namespace {

std::string program() {
  const char* named = std::getenv("IMAGEIO_FFMPEG_EXE");
  return named != nullptr && *named != '\0' ? named : "ffmpeg";
}

[[noreturn]] void unavailable(int error) {
  fail(Kind::kUnavailable, "ffmpeg did not start (" + std::string(std::strerror(error)) +
                               "). The program `ffmpeg`, or one that IMAGEIO_FFMPEG_EXE names, "
                               "was expected. Install it, for example with apt-get install "
                               "ffmpeg.");
}

void close_one(int& file) {
  if (file >= 0) ::close(file);
  file = -1;
}

// Writing to a pipe that nobody reads is an error here, not the end of the process.
class NoSigpipe {
 public:
  NoSigpipe() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~NoSigpipe() {
    const timespec now{0, 0};
    if (!sigismember(&before_, SIGPIPE)) sigtimedwait(&pipe_, nullptr, &now);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t pipe_, before_;
};

// What names the part of ffmpeg that says something, with its address.
std::string without_speaker(const std::string& line) {
  if (line.empty() || line[0] != '[' || line.find(" @ 0x") == std::string::npos) return line;
  const std::size_t end = line.find("] ");
  return end == std::string::npos ? line : line.substr(end + 2);
}

}  // namespace

Ffmpeg::Ffmpeg(const std::vector<std::string>& arguments, const std::string& folder) {
  int in[2], out[2];
  if (::pipe2(in, O_CLOEXEC) != 0) unavailable(errno);
  if (::pipe2(out, O_CLOEXEC) != 0) unavailable(errno);
  in_ = in[1];
  out_ = out[0];
  errors_ = std::tmpfile();
  if (errors_ == nullptr) unavailable(errno);
  std::vector<std::string> words = {program(), "-hide_banner", "-loglevel", "error"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  posix_spawn_file_actions_adddup2(&actions, ::fileno(errors_), 2);
  if (!folder.empty()) posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  const int error = ::posix_spawnp(&process_, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(in[0]);
  ::close(out[1]);
  if (error == 0) return;
  process_ = -1;
  close_one(in_);
  close_one(out_);
  std::fclose(errors_);
  unavailable(error);
}

Ffmpeg::~Ffmpeg() {
  close_one(in_);
  close_one(out_);
  if (process_ > 0) {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  if (errors_ != nullptr) std::fclose(errors_);
}

bool Ffmpeg::write(const char* bytes, std::size_t count) {
  const NoSigpipe quiet;
  while (count > 0) {
    const ssize_t done = ::write(in_, bytes, count);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return false;
    bytes += done;
    count -= static_cast<std::size_t>(done);
  }
  return true;
}

std::size_t Ffmpeg::read(char* bytes, std::size_t count) {
  std::size_t all = 0;
  while (all < count) {
    const ssize_t done = ::read(out_, bytes + all, count - all);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) break;
    all += static_cast<std::size_t>(done);
  }
  return all;
}

std::string Ffmpeg::exchange(const char* bytes, std::size_t count) {
  const NoSigpipe quiet;
  std::string all, buffer(1 << 16, '\0');
  ::fcntl(in_, F_SETFL, O_NONBLOCK);
  while (true) {
    if (count == 0) close_one(in_);
    pollfd files[2] = {{out_, POLLIN, 0}, {in_, POLLOUT, 0}};
    if (::poll(files, in_ >= 0 ? 2 : 1, -1) < 0) {
      if (errno == EINTR) continue;
      break;
    }
    if (in_ >= 0 && files[1].revents != 0) {
      const ssize_t done = ::write(in_, bytes, count);
      if (done < 0 && errno != EAGAIN && errno != EINTR) {
        count = 0;
      } else if (done > 0) {
        bytes += done;
        count -= static_cast<std::size_t>(done);
      }
    }
    if (files[0].revents == 0) continue;
    const ssize_t got = ::read(out_, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    all.append(buffer, 0, static_cast<std::size_t>(got));
  }
  return all;
}

std::string Ffmpeg::finish() {
  close_one(in_);
  close_one(out_);
  int status = 0;
  while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
  process_ = -1;
  const std::string told = complaints();
  if (WIFSIGNALED(status)) {
    const std::string name = ::strsignal(WTERMSIG(status));
    return told.empty() ? name : name + "; " + told;
  }
  if (status == 0) return told;
  return told.empty() ? "exit code " + std::to_string(WEXITSTATUS(status)) : told;
}

// The first and last lines it wrote.
std::string Ffmpeg::complaints() const {
  std::string all(1 << 16, '\0');
  const ssize_t count = ::pread(::fileno(errors_), all.data(), all.size(), 0);
  all.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  std::vector<std::string> lines;
  for (std::size_t start = 0; start < all.size();) {
    const std::size_t end = std::min(all.find_first_of("\r\n", start), all.size());
    const std::string line = without_speaker(all.substr(start, end - start));
    if (!blank(line)) lines.push_back(line);
    start = end + 1;
  }
  if (lines.size() > 3) lines = {lines[0], lines[lines.size() - 2], lines.back()};
  return joined(lines, "; ");
}

}  // namespace edgereel_runtime
