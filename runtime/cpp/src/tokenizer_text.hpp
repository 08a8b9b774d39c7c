// Normalizers and pre-tokenizers: a text is made plain, and cut into the words of a model.
#pragma once

#include <functional>
#include <vector>

#include "json.hpp"
#include "unicode.hpp"

namespace edgereel_runtime {

using Normalizer = std::function<Text(const Text&)>;
using PreTokenizer = std::function<std::vector<Text>(const Text&)>;

// From their places in a tokenizers JSON file, null for none; both throw JsonError where they are
// of a kind that is not known here.
Normalizer read_normalizer(const Json& json);
PreTokenizer read_pre_tokenizer(const Json& json);

// The type of a part of the file.
std::string type_of(const Json& json);

}  // namespace edgereel_runtime
