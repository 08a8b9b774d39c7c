#include "host_memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <system_error>

#include "files.hpp"

namespace edgereel_runtime {
namespace {

std::string content(const std::string& path) {
  try {
    return read_file(path);
  } catch (const std::system_error&) {
    return "";
  }
}

// The number behind a word at the start of a line, or of the text if the word is empty.
std::optional<std::int64_t> number_after(const std::string& text, const std::string& word) {
  std::size_t at = text.compare(0, word.size(), word) == 0 ? 0 : text.find("\n" + word);
  if (at == std::string::npos) return std::nullopt;
  at = text.find_first_not_of(" \t", at + (at > 0 ? 1 : 0) + word.size());
  if (at == std::string::npos || text[at] < '0' || text[at] > '9') return std::nullopt;
  return std::strtoll(&text[at], nullptr, 10);
}

}  // namespace

std::optional<std::int64_t> free_memory(const std::string& root) {
  std::optional<std::int64_t> least;
  if (const auto available = number_after(content(root + "/proc/meminfo"), "MemAvailable:")) {
    least = *available * 1024;
  }
  const std::string group = root + "/sys/fs/cgroup";
  const auto limit = number_after(content(group + "/memory.max"), "");
  const auto used = number_after(content(group + "/memory.current"), "");
  if (!limit || !used) return least;
  const auto cached = number_after(content(group + "/memory.stat"), "inactive_file ");
  const std::int64_t left = std::max<std::int64_t>(*limit - *used + cached.value_or(0), 0);
  return least ? std::min(*least, left) : left;
}

}  // namespace edgereel_runtime
