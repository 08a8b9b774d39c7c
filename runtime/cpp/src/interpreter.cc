#include "interpreter.hpp"

#include <algorithm>
#include <new>
#include <stdexcept>

#include "errors.hpp"
#include "memory.hpp"
#include "ops.hpp"
#include "running.hpp"

namespace edgereel_runtime {

Interpreter::Interpreter(Plan& plan, std::unique_ptr<Backend> backend, bool verify_hashes,
                         bool low_vram)
    : plan_(plan), backend_(std::move(backend)), verify_(verify_hashes), low_vram_(low_vram) {}

Result Interpreter::run(const Mode& mode, const Values& params, const RunOptions& options) {
  try {
    Tables tables;
    for (const Stage& stage : mode.stages) {
      for (const Op& op : stage.ops) {
        const auto* denoise = std::get_if<Denoise>(&op);
        const auto* renoise = std::get_if<Renoise>(&op);
        if (denoise != nullptr) tables[denoise->schedule] = table(denoise->schedule);
        if (renoise != nullptr) tables[renoise->schedule] = table(renoise->schedule);
      }
    }
    const Call call({plan(), mode, params, tables}, options.noise);
    std::optional<std::int64_t> free = backend_->free_memory();
    if (free) *free += held_;
    held_ = std::max(held_, check_memory(memory_asked(call), free, low_vram_));
    return run_call(*this, call, options);
  } catch (const std::bad_alloc&) {
    fail(Kind::kEngine,
         "memory ran out; expected room for the values of this mode, which `edgereel explain` "
         "lists. Close other programs, or use a smaller cascade.");
  }
}

MemoryAsked Interpreter::memory_asked(const Call& call) const {
  MemoryAsked asked{plan(), plan_.folder(), call.mode, {}, {}};
  for (std::size_t i = 0; i < call.mode.stages.size(); ++i) {
    std::vector<Span> largest;
    for (const std::vector<Span>& spans : call.spans[i]) largest.push_back(spans[0]);
    asked.sizes.push_back(call.chunk_sizes(call.mode.stages[i], largest));
  }
  for (const auto& entry : engines_) asked.loaded.insert(entry.first);
  asked.footprint = [this](const std::string& graph) { return backend_->footprint(graph); };
  asked.ahead = loads_ahead();
  asked.kernels = backend_->has_kernels();
  return asked;
}

Interpreter::Loaded Interpreter::load(const std::string& graph) {
  const GraphSpec& spec = plan().graphs.at(graph);
  for (const std::string& weights : spec.weights) file(weights);
  return backend_->load(file(spec.file), spec);
}

Engine& Interpreter::engine(const std::string& graph) {
  const auto ahead = ahead_.find(graph);
  if (ahead != ahead_.end()) {
    Loader::Loaded loading = std::move(ahead->second);
    ahead_.erase(ahead);
    return *(engines_[graph] = loading.get());
  }
  const auto found = engines_.find(graph);
  if (found != engines_.end()) return *found->second;
  return *(engines_[graph] = load(graph));
}

// One after the other, as the deserialisers of libraries are for one thread.
void Interpreter::load_ahead(const Stage& stage) {
  if (!loads_ahead()) return;
  for (const Op& op : stage.ops) {
    const std::string* graph = graph_of(op);
    if (graph == nullptr || engines_.count(*graph) != 0 || ahead_.count(*graph) != 0) continue;
    ahead_[*graph] = loader_.add([this, name = *graph] { return load(name); });
  }
}

Tokenizer& Interpreter::tokenizer(const std::string& name) {
  const auto found = tokenizers_.find(name);
  if (found != tokenizers_.end()) return *found->second;
  const TokenizerSpec& spec = plan().tokenizers.at(name);
  auto made = std::make_unique<Tokenizer>(file(spec.file), spec);
  return *(tokenizers_[name] = std::move(made));
}

const Levels& Interpreter::table(const std::string& name) {
  const auto found = tables_.find(name);
  if (found != tables_.end()) return found->second;
  const std::string& path = plan().schedules.at(name).file;
  const std::string checked = file(path);
  try {
    Levels table = read_levels(checked);
    return tables_[name] = std::move(table);
  } catch (const std::runtime_error& error) {
    wrong("files." + path, error.what(), "alphas_cumprod, f64 [T]");
  }
}

void Interpreter::stage_is_done() {
  if (low_vram_) engines_.clear();
  if (backend().free_scratch()) held_ = 0;
}

std::string Interpreter::file(const std::string& name) {
  return verify_ ? plan_.check_file(name) : plan_.folder() + "/" + name;
}

}  // namespace edgereel_runtime
