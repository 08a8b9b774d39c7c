// The memory a mode will take, known before anything is loaded; memory.py says what is counted.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "backend.hpp"
#include "call_start.hpp"

namespace edgereel_runtime {

// The op of a stage that takes most, in bytes.
struct Peak {
  std::int64_t weights = 0, values = 0;
  std::int64_t activations = 0;  // inside the graph that runs
  std::int64_t loading = 0;      // the second copy of weights, before it runs

  std::int64_t total() const { return weights + values + std::max(activations, loading); }
};

// What memory is predicted for.
struct MemoryAsked {
  const Document& plan;
  const std::string& folder;
  const Mode& mode;
  std::vector<Numbers> sizes;    // for each stage, of every symbol in its largest chunk
  std::set<std::string> loaded;  // graphs whose weights are in memory already
  // Of a graph, where its backend knows better than the plan; may be empty.
  std::function<std::optional<Footprint>(const std::string&)> footprint = nullptr;
  bool ahead = false;    // the graphs of the next stage load while a stage runs
  bool kernels = false;  // Edgereel's, for a CPU, compute what they can
};

// The predicted peak of every stage; with `low_vram` it drops the graphs of the one before.
std::vector<Peak> stage_peaks(const MemoryAsked& asked, bool low_vram);

// The largest activations of a call whose every stage fits into `free` bytes, none: not compared;
// throws Error if one does not, with what would fit.
std::int64_t check_memory(const MemoryAsked& asked, const std::optional<std::int64_t>& free,
                          bool low_vram);

}  // namespace edgereel_runtime
