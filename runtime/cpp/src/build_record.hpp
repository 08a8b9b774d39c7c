// What stands in build.json, as far as it is used here; engines/README.md has all of it.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "array.hpp"
#include "json.hpp"
#include "named.hpp"
#include "words.hpp"

namespace edgereel_runtime {

// Graph input -> its smallest, preferred and largest shape.
using Profile = Named<std::array<Dims, 3>>;

// One compiled graph, as far as it is used here.
struct BuiltEngine {
  std::string file, sha256, precision;
  Named<std::string> source;  // every file it was compiled from -> sha256
  std::vector<Profile> profiles;
  Int weights_bytes = 0, activation_bytes = 0;
};

// What compiled the engines; an engine opens in exactly this version of this library.
struct Compiler {
  std::string name, version;
};

struct Record {
  Int format = 0;
  std::string key;
  Compiler library;
  Words compute_capabilities;
  Named<BuiltEngine> graphs;
  std::optional<Named<std::string>> plugin;
};

// Reads it strictly; throws Misread, of strict_json.hpp.
Record read_record(const Json& json);

}  // namespace edgereel_runtime
