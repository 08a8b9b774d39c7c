// Named noise: the same seed and name give the same numbers in any order, on any machine. The norm
// with test vectors is engines/README.md.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace edgereel_runtime {

using Four = std::array<std::uint32_t, 4>;

// Ten rounds of Philox4x32 (Salmon et al. 2011, section 3.3).
Four philox4x32(Four counter, std::array<std::uint32_t, 2> key);

// The 32-bit FNV-1a hash of the bytes (Fowler, Noll, Vo).
std::uint32_t fnv1a32(const std::string& text);

// A draw: element i comes from word i of the blocks with this name.
struct Draw {
  std::uint64_t seed = 0;
  std::string name;
  std::uint32_t chunk = 0, step = 0;
};

Four noise_words(const Draw& draw, std::uint32_t block);

// The first `count` standard normal numbers of a draw.
void normal(const Draw& draw, float* out, std::size_t count);

}  // namespace edgereel_runtime
