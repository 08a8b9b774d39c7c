// SHA-256 (FIPS 180-4, section 6.2), by the processor's own instructions where it has them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace edgereel_runtime {

class Sha256 {
 public:
  // Tests also take the way without the processor's instructions.
  explicit Sha256(bool instructions = true);

  void add(const char* bytes, std::size_t count);

  // Of all that was added, 64 digits; to be called once.
  std::string hex();

 private:
  void (*mix_)(std::uint32_t* state, const unsigned char* block);
  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> block_{};  // the end of what was added, less than a block
  std::size_t filled_ = 0;
  std::uint64_t length_ = 0;
};

}  // namespace edgereel_runtime
