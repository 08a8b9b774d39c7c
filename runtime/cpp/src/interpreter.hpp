// Runs a plan on a backend: what is loaded, and what a call is asked and leaves.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend.hpp"
#include "loader.hpp"
#include "params.hpp"
#include "plan.hpp"
#include "schedule.hpp"
#include "tokenizer.hpp"

namespace edgereel_runtime {

class Call;
struct MemoryAsked;

// Where a call is: reported when a stage starts (step 0) and after each call of a graph.
struct Progress {
  std::string stage;
  std::size_t stage_index = 0, stages = 0;
  std::int64_t step = 0, steps = 0;    // finished steps of the present op, and all
  std::int64_t chunk = 0, chunks = 1;  // index of the present chunk
  double done = 0;                     // share of the work, 0 to 1
  double seconds = 0;                  // since the call began
};

// What a call leaves: frames u8 [F, H, W, 3], and sentences about it.
struct Result {
  Array frames;
  double fps = 0;
  std::vector<std::string> warnings;
};

struct RunOptions {
  Arrays noise;                                                // instead of draws
  std::function<void(const Progress&)> report;                 // may throw to stop
  std::function<void(const Progress&, const Array&)> preview;  // x0 after a step; may be empty
  const std::atomic<bool>* cancelled = nullptr;
};

// One cascade on one backend; engines, schedules and tokenizers stay loaded.
class Interpreter {
 public:
  Interpreter(Plan& plan, std::unique_ptr<Backend> backend, bool verify_hashes, bool low_vram);

  // The frames of one prompt; throws Error.
  Result run(const Mode& mode, const Values& params, const RunOptions& options);

  Engine& engine(const std::string& graph);  // loaded at its first use, as both below
  Tokenizer& tokenizer(const std::string& name);
  const Levels& table(const std::string& name);
  void load_ahead(const Stage& stage);  // begins to, if that can be beside the work
  void stage_is_done();                 // low_vram: drops all engines

  // Whether the engines of the next stage load while a stage runs.
  bool loads_ahead() const { return backend_->loads_ahead() && !low_vram_; }

  Backend& backend() const { return *backend_; }

  const Document& plan() const { return plan_.document(); }

  // What the memory of a call is predicted of.
  MemoryAsked memory_asked(const Call& call) const;

 private:
  using Loaded = std::unique_ptr<Engine>;

  Loaded load(const std::string& graph);  // in any thread
  std::string file(const std::string& name);

  Plan& plan_;
  std::unique_ptr<Backend> backend_;
  bool verify_, low_vram_;
  std::int64_t held_ = 0;  // activations of calls so far, which the backend keeps for the next
  std::map<std::string, Loaded> engines_;
  std::map<std::string, std::unique_ptr<Tokenizer>> tokenizers_;
  std::map<std::string, Levels> tables_;
  std::map<std::string, Loader::Loaded> ahead_;  // by graph
  Loader loader_;                                // the last, as it uses the rest
};

}  // namespace edgereel_runtime
