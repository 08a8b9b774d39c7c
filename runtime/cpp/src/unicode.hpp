// What a tokenizer asks of characters, as the library `tokenizers` answers it.
#pragma once

#include <string>

namespace edgereel_runtime {

using Text = std::u32string;

enum CharClass : unsigned { kLetter = 1, kNumber = 2, kSpace = 4, kWordPart = 8 };

unsigned char_classes(char32_t c);

Text lower_case(const Text& text);  // every character by itself
Text nfc(const Text& text);         // normalization form C

Text from_utf8(const std::string& bytes);  // of valid UTF-8
std::string to_utf8(const Text& text);

}  // namespace edgereel_runtime
