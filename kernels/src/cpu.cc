// Compiled once for each level of vector units, which EDGEREEL_LEVEL names: everything in here is
// local to the file, so that the linker cannot take one level's code for another's.
#include "cpu.hpp"

#include "group_norm.hpp"
#include "temporal_attention.hpp"

#ifndef EDGEREEL_LEVEL
#define EDGEREEL_LEVEL kBase
#endif
#define EDGEREEL_TEXT_OF(name) #name
#define EDGEREEL_TEXT(name) EDGEREEL_TEXT_OF(name)

namespace edgereel::cpu {

const Level EDGEREEL_LEVEL = {EDGEREEL_TEXT(EDGEREEL_LEVEL) + 1, temporal_attention<float>,
                              temporal_attention<std::uint16_t>, group_norm<float>,
                              group_norm<std::uint16_t>};

}  // namespace edgereel::cpu
