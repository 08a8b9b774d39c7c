// Grapheme clusters, what a reader takes for one character (Unicode annex 29), as `tokenizers` cuts
// a text into them.
#pragma once

#include <vector>

#include "unicode.hpp"

namespace edgereel_runtime {

// The clusters of a text, in order. A pair of regional indicators, which is a flag, is cut in two:
// nothing that is asked of clusters here tells it from one.
std::vector<Text> clusters(const Text& text);

}  // namespace edgereel_runtime
