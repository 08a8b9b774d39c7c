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
#include "words.hpp"

namespace edgereel_runtime {
namespace {

// SHA-256 (FIPS 180-4, section 6.2).
class Sha256 {
 public:
  void add(const unsigned char* bytes, std::size_t count) {
    length_ += count;
    for (std::size_t i = 0; i < count; ++i) {
      block_[filled_++] = bytes[i];
      if (filled_ == block_.size()) {
        mix();
        filled_ = 0;
      }
    }
  }

  std::string hex() {
    const std::uint64_t bits = length_ * 8;
    const unsigned char one = 0x80, zero = 0;
    add(&one, 1);
    while (filled_ != 56) add(&zero, 1);
    for (int i = 7; i >= 0; --i) {
      const unsigned char byte = static_cast<unsigned char>(bits >> (8 * i));
      add(&byte, 1);
    }
    std::string digits;
    for (std::uint32_t word : state_) {
      char buffer[9];
      std::snprintf(buffer, sizeof buffer, "%08x", word);
      digits += buffer;
    }
    return digits;
  }

 private:
  static std::uint32_t turned(std::uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

  void mix();

  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> block_{};
  std::size_t filled_ = 0;
  std::uint64_t length_ = 0;
};

constexpr std::uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

void Sha256::mix() {
  std::uint32_t w[64];
  for (std::size_t i = 0; i < 16; ++i) {
    w[i] = std::uint32_t(block_[4 * i]) << 24 | std::uint32_t(block_[4 * i + 1]) << 16 |
           std::uint32_t(block_[4 * i + 2]) << 8 | block_[4 * i + 3];
  }
  for (std::size_t i = 16; i < 64; ++i) {
    const std::uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (turned(a, 7) ^ turned(a, 18) ^ (a >> 3)) + w[i - 7] +
           (turned(b, 17) ^ turned(b, 19) ^ (b >> 10));
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (std::size_t i = 0; i < 64; ++i) {
    const std::uint32_t first = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) +
                                ((e & f) ^ (~e & g)) + kRound[i] + w[i];
    const std::uint32_t second =
        (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + first;
    d = c;
    c = b;
    b = a;
    a = first + second;
  }
  const std::uint32_t added[] = {a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < 8; ++i) state_[i] += added[i];
}

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
  each_chunk(path, [&](const char* bytes, std::size_t count) {
    hash.add(reinterpret_cast<const unsigned char*>(bytes), count);
  });
  return hash.hex();
}

std::string sha256_of(const std::string& bytes) {
  Sha256 hash;
  hash.add(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
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
