// Compiled engines of a cascade folder: builds/<key>/build.json, read strictly and never trusted.
//
// An engine file is code that the GPU library executes. So it is opened only if it belongs to this
// plan's graphs, this library version and this GPU, and if its bytes have the hash that was written
// down when it was compiled. engines/README.md describes the format in words.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "build_record.hpp"

namespace edgereel_runtime {

// The library that is here; its version is told with as many numbers as the one it is given has,
// for not all releases that write build.json tell the last one.
struct Installed {
  std::string name;
  std::function<std::string(const std::string&)> version;
};

// A build folder whose build.json was read; no engine is open yet.
struct Build {
  std::string folder;
  Record record;

  // The engine of a graph, after comparing its bytes with the hash in build.json; throws Error.
  std::string engine(const std::string& graph) const;
};

// What an engine must have been made from and for, to be used here.
struct WantedBuild {
  std::string graph;
  Named<std::string> source;  // the graph's files -> sha256, as in plan.json
  std::optional<std::string> precision;
  Installed library;
  std::string capability;  // of this machine's GPU
};

// The build in builds/<key>/; throws Error if build.json is missing, malformed or of another build.
Build read_build(const std::string& folder);

// The newest build of a cascade that fits; throws Error naming both sides for the newest one.
Build choose_build(const std::string& cascade, const WantedBuild& wanted);

// What to do about an unusable build: the command that compiles its cascade again.
std::string rebuild(const std::string& build);

}  // namespace edgereel_runtime
