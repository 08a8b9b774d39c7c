#include "files.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <system_error>

#include "errors.hpp"
#include "sha256.hpp"
#include "words.hpp"

namespace edgereel_runtime {
namespace {

using Chunk = std::function<void(const char*, std::size_t)>;

void each_chunk(const std::string& path, const Chunk& use) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      std::fopen(path.c_str(), "rb"), [](std::FILE* f) { return f ? std::fclose(f) : 0; });
  if (!file) throw std::system_error(errno, std::generic_category());
  std::string buffer(1 << 20, '\0');
  while (const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), file.get())) {
    use(buffer.data(), count);
  }
  if (std::ferror(file.get())) throw std::system_error(errno, std::generic_category());
}

}  // namespace

std::string read_file(const std::string& path) {
  std::string all;
  each_chunk(path, [&](const char* bytes, std::size_t count) { all.append(bytes, count); });
  return all;
}

std::string sha256_of_file(const std::string& path) {
  Sha256 hash;
  each_chunk(path, [&](const char* bytes, std::size_t count) { hash.add(bytes, count); });
  return hash.hex();
}

std::string sha256_of(const std::string& bytes) {
  Sha256 hash;
  hash.add(bytes.data(), bytes.size());
  return hash.hex();
}

std::string temporary(const std::string& target) {
  std::random_device random;
  char digits[17];
  std::snprintf(digits, sizeof digits, "%08x%08x", random(), random());
  const auto name = ".edgereel-" + std::string(digits) + ".part";
  return (std::filesystem::path(target).parent_path() / name).string();
}

std::string cannot_write(const std::string& target, const std::string& reason) {
  return "Cannot write " + shown(target) + ": " + reason +
         ". A writable place was expected. Choose another output or free some space.";
}

void check_place(const std::string& target) {
  const std::filesystem::path folder = std::filesystem::path(target).parent_path();
  const std::string named = folder.empty() ? "." : folder.string();
  std::error_code ignored;
  if (!std::filesystem::is_directory(named, ignored)) {
    fail(Kind::kOutput, "The folder " + named +
                            " does not exist. The output needs an existing folder. Create it "
                            "(mkdir -p " +
                            named + ") or choose another output.");
  }
  const std::string probe = temporary(target);
  const int file = ::open(probe.c_str(), O_CREAT | O_EXCL | O_WRONLY, 0666);
  if (file < 0) fail(Kind::kOutput, cannot_write(target, std::strerror(errno)));
  ::close(file);
  ::unlink(probe.c_str());
}

}  // namespace edgereel_runtime
