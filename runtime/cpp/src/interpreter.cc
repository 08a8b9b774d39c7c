#include "interpreter.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>
#include <stdexcept>

#include "chunks.hpp"
#include "errors.hpp"
#include "memory.hpp"
#include "ops.hpp"

namespace edgereel_runtime {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

using Buffers = std::map<std::string, Array>;

// What the ops of a stage, or of one chunk of it, can see.
struct View {
  Buffers& values;
  const Numbers& sizes;
  std::optional<std::int64_t> chunk;
  std::int64_t lead = 0;  // entries of the first chunk in front of this one
};

Array zeros(const Dims& dims) {
  Array array(DType::kFloat32, dims);
  std::memset(array.raw(), 0, array.bytes());
  return array;
}

Array floats(const float* from, Dims dims) {
  Array array(DType::kFloat32, std::move(dims));
  if (array.bytes() > 0) std::memcpy(array.raw(), from, array.bytes());
  return array;
}

// The array repeated along a new axis 0.
Array repeated(const Array& one, std::int64_t times) {
  Dims dims = one.dims();
  dims.insert(dims.begin(), times);
  Array all(one.dtype(), dims);
  for (std::int64_t i = 0; i < times; ++i) std::memcpy(all[i].raw(), one.raw(), one.bytes());
  return all;
}

// The state of one call.
class Running {
 public:
  Running(Interpreter& interpreter, const Call& call, const RunOptions& options)
      : interpreter_(interpreter), call_(call), options_(options), total_(call.total_work()) {}

  Result run() {
    Buffers values;
    Result result;
    for (const auto& [name, frames] : call_.videos) values[name] = frames;
    for (stage_ = 0; stage_ < call_.mode.stages.size(); ++stage_) {
      const Clock::time_point started = Clock::now();
      run_stage(call_.mode.stages[stage_], values);
      const std::set<std::string> needed = call_.read_after(stage_);
      for (auto entry = values.begin(); entry != values.end();) {
        entry = needed.count(entry->first) ? std::next(entry) : values.erase(entry);
      }
      interpreter_.stage_is_done();
      result.seconds.emplace_back(call_.mode.stages[stage_].name, since(started));
    }
    result.frames = values.at(call_.mode.output.value);
    result.fps = as_double(number_of(call_.mode.output.fps, call_.params));
    result.warnings = warnings_;
    return result;
  }

 private:
  // Runs a stage, once or per chunk, and adds what leaves it to `values`.
  void run_stage(const Stage& stage, Buffers& values) {
    chunk_ = 0;
    chunks_ = 1;
    for (const auto& spans : call_.spans[stage_])
      chunks_ *= static_cast<std::int64_t>(spans.size());
    report(0, 1);
    if (!stage.each) return run_ops(stage, {values, call_.sizes, std::nullopt, 0});
    const auto run = [&](const std::vector<Span>& spans) {
      return run_chunk(stage, values, spans);
    };
    for (const auto& [name, array] : joined_chunks(call_, stage_, run)) {
      values[stage.collect.at(name)] = array;
    }
  }

  // What is collected of one chunk, without what leads it.
  Arrays run_chunk(const Stage& stage, const Buffers& values, const std::vector<Span>& spans) {
    Buffers inside = values;
    for (const auto& [part, whole] : stage.each->slices) {
      const Array given = read(whole, {inside, call_.sizes, std::nullopt, 0});
      inside[part] = part_of(given, call_.cuts(part, *stage.each, spans));
    }
    const Numbers sizes = call_.chunk_sizes(stage, spans);
    std::int64_t lead = 0;
    for (const Span& span : spans) lead += span.lead;
    run_ops(stage, {inside, sizes, chunk_, lead});
    ++chunk_;
    Arrays collected;
    for (const auto& entry : stage.collect) {
      const Array& array = inside.at(entry.first);
      collected.entries.emplace_back(entry.first,
                                     lead > 0 ? array.part(lead, array.dims()[0]) : array);
    }
    return collected;
  }

  void run_ops(const Stage& stage, View view) {
    for (const Op& op : stage.ops) {
      std::visit([&](const auto& one) { run_op(one, view); }, op);
    }
  }

  void run_op(const Noise& op, View& view) {
    const Wanted wanted{op.value, call_.dims(op.value, view.sizes), std::nullopt, std::nullopt};
    view.values[op.value] = draw(wanted, view, op.shared);
  }

  void run_op(const Run& op, View& view) {
    Arrays inputs, outputs;
    for (const auto& [name, value] : op.inputs)
      inputs.entries.emplace_back(name, read(value, view));
    for (const auto& [name, value] : op.outputs) {
      outputs.entries.emplace_back(name, make(value, view));
    }
    step(interpreter_.engine(op.graph), inputs, outputs);
    done_ += call_.work(op, view.sizes);
    report(1, 1);
  }

  void run_op(const Renoise& op, View& view) {
    const auto [c_x, c_z] = call_.renoise.at(op.out);
    const Array x = read(op.x, view);
    const Array z = draw({op.noise, x.dims(), std::nullopt, std::nullopt}, view, op.shared_noise);
    Array mixed(DType::kFloat32, x.dims());
    for (std::size_t i = 0; i < mixed.count(); ++i) {
      mixed.as<float>()[i] =
          static_cast<float>(c_x) * x.as<float>()[i] + static_cast<float>(c_z) * z.as<float>()[i];
    }
    view.values[op.out] = mixed;
  }

  // The sampling loop: x and prev move between two buffers each, the rest stays bound.
  void run_op(const Denoise& op, View& view) {
    const Steps& steps = call_.steps.at(op.out);
    Engine& engine = interpreter_.engine(op.graph);
    const GraphSpec& graph = interpreter_.plan().graphs.at(op.graph);
    Array x = read(op.x, view);
    const bool has_prev = graph.inputs.has("prev"), has_noise = graph.inputs.has("noise");
    Array prev = has_prev ? zeros(x.dims()) : Array();
    Array noise = has_noise ? zeros(x.dims()) : Array();
    Arrays constant;
    for (const auto& [name, value] : op.conditions) {
      constant.entries.emplace_back(name, read(value, view));
    }
    const auto guided = static_cast<std::int64_t>(steps.weights.size());
    constant.entries.emplace_back("weights", floats(steps.weights.data(), {guided}));
    Array pairs[2][2];
    for (auto& pair : pairs) {
      for (Array& array : pair) array = Array(DType::kFloat32, x.dims());
    }
    const auto count = static_cast<std::int64_t>(steps.rows.size());
    for (std::int64_t k = 0; k < count; ++k) {
      const auto& row = steps.rows[static_cast<std::size_t>(k)];
      if (op.noise && row[kCNoise] != 0) {
        noise = draw({*op.noise, x.dims(), steps.first + k, std::nullopt}, view, op.shared_noise);
      }
      Arrays inputs = constant, outputs;
      inputs.entries.emplace_back("x", x);
      inputs.entries.emplace_back("row", floats(row.data(), {std::int64_t(kRowWidth)}));
      if (has_prev) inputs.entries.emplace_back("prev", prev);
      if (has_noise) inputs.entries.emplace_back("noise", noise);
      outputs.entries = {{"x_next", pairs[k % 2][0]}, {"x0", pairs[k % 2][1]}};
      step(engine, inputs, outputs);
      x = pairs[k % 2][0];
      prev = pairs[k % 2][1];
      done_ += call_.work(op, view.sizes) / count;
      report(k + 1, count, &prev);
    }
    view.values[op.out] = x;
  }

  // The kept rows of a guidance batch as ids, mask and declared indices.
  void run_op(const Tokenize& op, View& view) {
    const std::vector<std::size_t>& kept = call_.kept.at(op.rows);
    const std::vector<Row>& rows = call_.mode.rows.at(op.rows);
    std::vector<std::string> texts;
    for (std::size_t index : kept) {
      const Row& row = rows[index];
      const std::string given =
          row.param ? std::get<std::string>(call_.params.at(*row.param)) : std::string();
      texts.push_back(given + row.append + row.text.value_or(""));
    }
    const Tokens tokens = interpreter_.tokenizer(op.tokenizer).encode(texts);
    for (std::size_t index : tokens.cut) {
      warn(rows[kept[index]].param.value_or("a text of the plan"), op, tokens.ids.dims()[1]);
    }
    view.values[op.ids] = tokens.ids;
    if (op.mask) {
      const bool whole = call_.mode.values.at(*op.mask).dtype == "int64";
      view.values[*op.mask] = whole ? tokens.mask : as_floats(tokens.mask);
    }
    if (op.row) {
      Array row(DType::kInt64, {static_cast<std::int64_t>(kept.size())});
      std::copy(kept.begin(), kept.end(), row.as<std::int64_t>());
      view.values[*op.row] = row;
    }
  }

  static Array as_floats(const Array& whole) {
    Array array(DType::kFloat32, whole.dims());
    std::copy_n(whole.as<std::int64_t>(), whole.count(), array.as<float>());
    return array;
  }

  void warn(const std::string& name, const Tokenize& op, std::int64_t length) {
    const std::string sentence =
        name + " is longer than the " + std::to_string(length) + " tokens that " +
        shown(op.tokenizer) + " reads; its end was left out. Shorten it to have all of it count.";
    if (std::find(warnings_.begin(), warnings_.end(), sentence) == warnings_.end()) {
      warnings_.push_back(sentence);
    }
  }

  // Noise of the sizes; shared noise is one draw for every index of axis 0.
  Array draw(Wanted wanted, const View& view, bool shared) const {
    const Dims dims = wanted.dims;
    if (shared) {
      wanted.dims.erase(wanted.dims.begin());
      return repeated(call_.draws.draw(wanted), dims[0]);
    }
    wanted.chunk = view.chunk;
    if (view.lead == 0) return call_.draws.draw(wanted);
    wanted.dims[0] = dims[0] - view.lead;
    const Array rest = call_.draws.draw(wanted);
    wanted.dims[0] = view.lead;
    wanted.chunk = 0;
    wanted.part = true;
    return stacked(call_.draws.draw(wanted), rest);
  }

  // The array of a value that was made, or of a numeric param.
  Array read(const std::string& value, const View& view) const {
    const auto found = view.values.find(value);
    return found != view.values.end() ? found->second : call_.filled(value, view.sizes);
  }

  Array make(const std::string& value, View& view) const {
    const DType dtype = dtype_of(call_.mode.values.at(value).dtype);
    return view.values[value] = Array(dtype, call_.dims(value, view.sizes));
  }

  // One call of a graph, unless the caller wants to stop.
  void step(Engine& engine, const Arrays& inputs, const Arrays& outputs) const {
    if (options_.cancelled != nullptr && options_.cancelled->load()) {
      fail(Kind::kCancelled,
           "The call was cancelled; nothing was written. Call again to start over.");
    }
    engine.run(inputs, outputs);
  }

  // Tells the caller where the work is, and shows what comes of it.
  void report(std::int64_t step, std::int64_t steps, const Array* x0 = nullptr) const {
    Progress progress;
    progress.stage = call_.mode.stages[stage_].name;
    progress.stage_index = stage_;
    progress.stages = call_.mode.stages.size();
    progress.step = step;
    progress.steps = steps;
    progress.chunk = chunk_;
    progress.chunks = chunks_;
    progress.done =
        static_cast<double>(done_) / static_cast<double>(std::max<std::int64_t>(total_, 1));
    progress.seconds = since(started_);
    if (x0 != nullptr && options_.preview) options_.preview(progress, *x0);
    if (options_.report) options_.report(progress);
  }

  Interpreter& interpreter_;
  const Call& call_;
  const RunOptions& options_;
  const Clock::time_point started_ = Clock::now();
  std::size_t stage_ = 0;
  std::int64_t chunk_ = 0, chunks_ = 1, done_ = 0;
  const std::int64_t total_;
  std::vector<std::string> warnings_;
};

}  // namespace

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
    const std::optional<std::int64_t> free = backend_->free_memory();
    if (free) {
      held_ = std::max(held_, check_memory(memory_asked(call), *free + held_, low_vram_));
    }
    return Running(*this, call, options).run();
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
  return asked;
}

Engine& Interpreter::engine(const std::string& graph) {
  const auto found = engines_.find(graph);
  if (found != engines_.end()) return *found->second;
  const GraphSpec& spec = plan().graphs.at(graph);
  for (const std::string& weights : spec.weights) file(weights);
  auto made = backend_->load(file(spec.file), spec);
  return *(engines_[graph] = std::move(made));
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
}

std::string Interpreter::file(const std::string& name) {
  return verify_ ? plan_.check_file(name) : plan_.folder() + "/" + name;
}

}  // namespace edgereel_runtime
