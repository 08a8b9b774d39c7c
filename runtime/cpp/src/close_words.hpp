// The word that somebody may have meant.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace edgereel_runtime {

// What Python's difflib.get_close_matches(word, words, n=1) finds.
std::optional<std::string> closest(const std::string& word, const std::vector<std::string>& words);

}  // namespace edgereel_runtime
