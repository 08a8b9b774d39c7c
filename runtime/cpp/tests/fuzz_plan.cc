// Whatever stands in a plan.json, reading it gives a plan or an Error: fuzz_plan CORPUS
#include <cstddef>
#include <cstdint>
#include <string>

#include "errors.hpp"
#include "plan.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count) {
  try {
    edgereel_runtime::parse_plan({reinterpret_cast<const char*>(bytes), count});
  } catch (const edgereel_runtime::Error&) {
  }
  return 0;
}
