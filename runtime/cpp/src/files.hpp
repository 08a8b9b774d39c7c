// Files read whole, hashed, and written whole or not at all.
#pragma once

#include <string>

namespace edgereel_runtime {

// The contents of a file; throws std::system_error if it cannot be read.
std::string read_file(const std::string& path);

// The hex digest of a file; throws std::system_error if it cannot be read.
std::string sha256_of_file(const std::string& path);

std::string sha256_of(const std::string& bytes);

// A hidden name beside the target that nobody else uses.
std::string temporary(const std::string& target);

// The sentence of an output that the system refuses.
std::string cannot_write(const std::string& target, const std::string& reason);

// Makes and removes a small file beside `target`, to learn before long work that it can be; throws
// Error.
void check_place(const std::string& target);

}  // namespace edgereel_runtime
