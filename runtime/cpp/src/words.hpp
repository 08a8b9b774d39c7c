// Numbers and texts as Python writes them, so that both runtimes say the same sentences.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace edgereel_runtime {

// Whole numbers of a plan; seeds need 64 bits without a sign, and their bounds one more.
__extension__ typedef __int128 Int;
using Scalar = std::variant<Int, double>;

std::string text(Int number);
std::string text(double number);  // the shortest digits that give the number back
std::string text(const Scalar& number);
std::string general(double number);  // six digits at most

// A text in quotation marks, what cannot be printed escaped.
std::string shown(const std::string& text);

std::string joined(const std::vector<std::string>& parts, const std::string& between = ", ");

// The words sorted, for the end of a sentence.
std::string names(std::vector<std::string> words);

// A list of numbers in brackets.
std::string listed(const std::vector<std::int64_t>& numbers);

double as_double(const Scalar& number);
bool less(const Scalar& one, const Scalar& other);

// Without white space at both ends, ASCII and Unicode.
bool blank(const std::string& text);

bool starts_with(const std::string& text, const std::string& start);
bool ends_with(const std::string& text, const std::string& end);

// The code point that begins at `at`, which moves behind it; -1 where the text is not UTF-8.
std::int32_t next_code_point(const std::string& text, std::size_t& at);
void append_utf8(std::string& text, std::uint32_t code_point);

}  // namespace edgereel_runtime
