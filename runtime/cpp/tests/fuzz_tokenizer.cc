// Whatever stands in a tokenizer.json, and in a text: fuzz_tokenizer CORPUS
//
// The text is what follows the last zero byte of the input; without one it is the input.
#include <cstddef>
#include <cstdint>
#include <string>

#include "errors.hpp"
#include "tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count) {
  const std::string input(reinterpret_cast<const char*>(bytes), count);
  const std::size_t end = input.rfind('\0');
  try {
    const edgereel_runtime::TokenizerSpec spec{"tokenizer.json", 77, 0};
    const edgereel_runtime::Tokenizer tokenizer(input.substr(0, end), spec, true);
    tokenizer.encode({end == std::string::npos ? input : input.substr(end + 1), "a red circle"});
  } catch (const edgereel_runtime::Error&) {
  }
  return 0;
}
