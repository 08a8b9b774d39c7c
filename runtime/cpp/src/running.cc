#include "running.hpp"

#include <algorithm>
#include <chrono>

#include "chunks.hpp"
#include "errors.hpp"
#include "sampling.hpp"

namespace edgereel_runtime {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

using Made = std::map<std::string, Buffer>;  // values, by their names in the plan

// What the ops of a stage, or of one chunk of it, can see.
struct View {
  Made& values;
  const Numbers& sizes;
  std::optional<std::int64_t> chunk;
  std::int64_t lead = 0;  // entries of the first chunk in front of this one
};

// The state of one call.
class Running {
 public:
  Running(Interpreter& interpreter, const Call& call, const RunOptions& options)
      : interpreter_(interpreter),
        backend_(interpreter.backend()),
        call_(call),
        options_(options),
        total_(call.total_work()) {}

  Result run() {
    Made values;
    for (const auto& [name, frames] : call_.videos) values[name] = backend_.put(frames);
    for (stage_ = 0; stage_ < call_.mode.stages.size(); ++stage_) {
      load_ahead();
      run_stage(call_.mode.stages[stage_], values);
      const std::set<std::string> needed = call_.read_after(stage_);
      for (auto entry = values.begin(); entry != values.end();) {
        entry = needed.count(entry->first) ? std::next(entry) : values.erase(entry);
      }
      interpreter_.stage_is_done();
    }
    return {backend_.get(values.at(call_.mode.output.value)),
            as_double(number_of(call_.mode.output.fps, call_.params)), warnings_};
  }

 private:
  // Runs a stage, once or per chunk, and adds what leaves it to `values`.
  void run_stage(const Stage& stage, Made& values) {
    chunk_ = 0;
    chunks_ = 1;
    for (const auto& spans : call_.spans[stage_])
      chunks_ *= static_cast<std::int64_t>(spans.size());
    report(0, 1);
    if (!stage.each) return run_ops(stage, {values, call_.sizes, std::nullopt, 0});
    const auto run = [&](const std::vector<Span>& spans) {
      return run_chunk(stage, values, spans);
    };
    for (const auto& [name, buffer] : joined_chunks(backend_, call_, stage_, run)) {
      values[stage.collect.at(name)] = buffer;
    }
  }

  // What is collected of one chunk, without what leads it.
  Buffers run_chunk(const Stage& stage, const Made& values, const std::vector<Span>& spans) {
    Made inside = values;
    for (const auto& [part, whole] : stage.each->slices) {
      const Buffer given = read(whole, {inside, call_.sizes, std::nullopt, 0});
      inside[part] = part_of(backend_, given, call_.cuts(part, *stage.each, spans));
    }
    const Numbers sizes = call_.chunk_sizes(stage, spans);
    std::int64_t lead = 0;
    for (const Span& span : spans) lead += span.lead;
    run_ops(stage, {inside, sizes, chunk_, lead});
    ++chunk_;
    Buffers collected;
    for (const auto& entry : stage.collect) {
      const Buffer& buffer = inside.at(entry.first);
      collected.entries.emplace_back(entry.first,
                                     lead > 0 ? buffer.part(lead, buffer.dims()[0]) : buffer);
    }
    return collected;
  }

  // Begins to load what this stage needs, and the next.
  void load_ahead() {
    for (std::size_t i = stage_; i < std::min(stage_ + 2, call_.mode.stages.size()); ++i) {
      interpreter_.load_ahead(call_.mode.stages[i]);
    }
  }

  void run_ops(const Stage& stage, View view) {
    for (const Op& op : stage.ops) {
      std::visit([&](const auto& one) { run_op(one, view); }, op);
    }
  }

  void run_op(const Noise& op, View& view) {
    const Wanted wanted{op.value, call_.dims(op.value, view.sizes), std::nullopt, std::nullopt};
    view.values[op.value] = backend_.put(draw(wanted, view, op.shared));
  }

  void run_op(const Run& op, View& view) {
    Buffers inputs, outputs;
    for (const auto& [name, value] : op.inputs) {
      inputs.entries.emplace_back(name, read(value, view));
    }
    for (const auto& [name, value] : op.outputs) {
      outputs.entries.emplace_back(name, make(value, view));
    }
    check_cancelled();
    interpreter_.engine(op.graph).run(inputs, outputs);
    done_ += call_.work(op, view.sizes);
    report(1, 1);
  }

  void run_op(const Renoise& op, View& view) {
    const auto [c_x, c_z] = call_.renoise.at(op.out);
    const Buffer x = read(op.x, view);
    const Array z = draw({op.noise, x.dims(), std::nullopt, std::nullopt}, view, op.shared_noise);
    view.values[op.out] = backend_.mixed(x, static_cast<float>(c_x), z, static_cast<float>(c_z));
  }

  // The sampling loop; what it makes must be finite numbers.
  void run_op(const Denoise& op, View& view) {
    const Steps& steps = call_.steps.at(op.out);
    const GraphSpec& graph = interpreter_.plan().graphs.at(op.graph);
    Loop loop{backend_,
              interpreter_.engine(op.graph),
              steps,
              read(op.x, view),
              {},
              graph.inputs.has("prev"),
              graph.inputs.has("noise"),
              nullptr};
    for (const auto& [name, value] : op.conditions) {
      loop.conditions.entries.emplace_back(name, read(value, view));
    }
    if (op.noise) {
      loop.noise = [&](std::int64_t step) {
        return draw({*op.noise, loop.x.dims(), step, std::nullopt}, view, op.shared_noise);
      };
    }
    const auto count = static_cast<std::int64_t>(steps.rows.size());
    const auto before = [&] { check_cancelled(); };
    const auto after = [&](std::int64_t done, const Buffer& x0) {
      done_ += call_.work(op, view.sizes) / count;
      report(done, count, &x0);
    };
    const Buffer made = loop.run(before, after, [](const Buffer&) { return true; });
    if (!loop.is_finite(made)) refuse(op, loop, loop.first_not_finite(before));
    view.values[op.out] = made;
  }

  // The error of a loop whose result is not finite, with the step where that began.
  [[noreturn]] void refuse(const Denoise& op, const Loop& loop,
                           const std::optional<std::int64_t>& step) const {
    const std::string where = !step        ? "its result"
                              : *step == 0 ? op.x + " before the first step"
                                           : op.out + " after step " + std::to_string(*step) +
                                                 " of " + std::to_string(loop.steps.rows.size());
    fail(Kind::kEngine,
         "stage " + shown(call_.mode.stages[stage_].name) + ": " + where +
             " holds values that are not finite (graph " + op.graph + ", " +
             loop.engine.precision() +
             "); expected finite numbers. `edgereel verify` says which graph is wrong; compile "
             "engines with more of it in float32 (`build.py compile --precision fp32`), or check "
             "what was given to the stage.");
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
    view.values[op.ids] = backend_.put(tokens.ids);
    if (op.mask) {
      const bool whole = call_.mode.values.at(*op.mask).dtype == "int64";
      view.values[*op.mask] = backend_.put(whole ? tokens.mask : as_floats(tokens.mask));
    }
    if (op.row) {
      Array row(DType::kInt64, {static_cast<std::int64_t>(kept.size())});
      std::copy(kept.begin(), kept.end(), row.as<std::int64_t>());
      view.values[*op.row] = backend_.put(row);
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
  Array draw(Wanted wanted, const View& view, const Flag& shared) const {
    const Dims dims = wanted.dims;
    if (is_set(shared, call_.params)) {
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

  // The buffer of a value that was made, or of a numeric param.
  Buffer read(const std::string& value, const View& view) const {
    const auto found = view.values.find(value);
    if (found != view.values.end()) return found->second;
    return backend_.put(call_.filled(value, view.sizes));
  }

  Buffer make(const std::string& value, View& view) const {
    const DType dtype = dtype_of(call_.mode.values.at(value).dtype);
    return view.values[value] = backend_.empty(dtype, call_.dims(value, view.sizes));
  }

  // Before each call of a graph: stops if the caller wants to.
  void check_cancelled() const {
    if (options_.cancelled == nullptr || !options_.cancelled->load()) return;
    fail(Kind::kCancelled,
         "The call was cancelled; nothing was written. Call again to start over.");
  }

  // Tells the caller where the work is, and shows what comes of it.
  void report(std::int64_t step, std::int64_t steps, const Buffer* x0 = nullptr) const {
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
    if (x0 != nullptr && options_.preview) options_.preview(progress, backend_.get(*x0));
    if (options_.report) options_.report(progress);
  }

  Interpreter& interpreter_;
  Backend& backend_;
  const Call& call_;
  const RunOptions& options_;
  const Clock::time_point started_ = Clock::now();
  std::size_t stage_ = 0;
  std::int64_t chunk_ = 0, chunks_ = 1, done_ = 0;
  const std::int64_t total_;
  std::vector<std::string> warnings_;
};

}  // namespace

Result run_call(Interpreter& interpreter, const Call& call, const RunOptions& options) {
  return Running(interpreter, call, options).run();
}

}  // namespace edgereel_runtime
