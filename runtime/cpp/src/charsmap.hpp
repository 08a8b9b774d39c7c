// The table of characters that sentencepiece compiles for a tokenizer such as T5's: texts of a few
// bytes, and what each becomes.
#pragma once

#include <string>

#include "tokenizer_text.hpp"

namespace edgereel_runtime {

// The normalizer of a `precompiled_charsmap`, in base64; throws JsonError where it is damaged.
Normalizer read_charsmap(const std::string& base64);

}  // namespace edgereel_runtime
