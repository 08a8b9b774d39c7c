#include "running.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "chunks.hpp"
#include "denoise.hpp"
#include "errors.hpp"

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
      : interpreter_(interpreter),
        backend_(interpreter.backend()),
        call_(call),
        options_(options),
        total_(call.total_work()) {}

  Result run() {
    Made values;
    for (const auto& [name, frames] : call_.videos) values[name] = backend_.put(frames);
    for (stage_ = 0; stage_ < call_.mode.stages.size(); ++stage_) {
      begun_ = false;
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
    for (const auto& [name, array] : joined_chunks(call_, stage_, run)) {
      values[stage.collect.at(name)] = backend_.put(array);
    }
  }

  // What is collected of one chunk, without what leads it.
  Arrays run_chunk(const Stage& stage, const Made& values, const std::vector<Span>& spans) {
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
    Arrays collected;
    for (const auto& entry : stage.collect) {
      const Array array = backend_.get(inside.at(entry.first));
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
    step(interpreter_.engine(op.graph), inputs, outputs);
    done_ += call_.work(op, view.sizes);
    report(1, 1);
  }

  void run_op(const Renoise& op, View& view) {
    const auto [c_x, c_z] = call_.renoise.at(op.out);
    const Array x = backend_.get(read(op.x, view));
    const Array z = draw({op.noise, x.dims(), std::nullopt, std::nullopt}, view, op.shared_noise);
    Array mixed(DType::kFloat32, x.dims());
    for (std::size_t i = 0; i < mixed.count(); ++i) {
      mixed.as<float>()[i] =
          static_cast<float>(c_x) * x.as<float>()[i] + static_cast<float>(c_z) * z.as<float>()[i];
    }
    view.values[op.out] = backend_.put(mixed);
  }

  void run_op(const Denoise& op, View& view) {
    Sampled sampled{op, interpreter_.plan().graphs.at(op.graph), read(op.x, view), {}};
    for (const auto& [name, value] : op.conditions) {
      sampled.conditions.entries.emplace_back(name, read(value, view));
    }
    Engine& engine = interpreter_.engine(op.graph);
    Stepping stepping;
    stepping.run = [&](const Buffers& inputs, const Buffers& outputs) {
      step(engine, inputs, outputs);
    };
    stepping.draw = [&](std::int64_t index) {
      return draw({*op.noise, sampled.x.dims(), index, std::nullopt}, view, op.shared_noise);
    };
    stepping.report = [&](std::int64_t k, std::int64_t count, const Buffer& x0) {
      done_ += call_.work(op, view.sizes) / count;
      report(k, count, &x0);
    };
    view.values[op.out] = denoised(backend_, sampled, call_.steps.at(op.out), stepping);
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

  // One call of a graph, unless the caller wants to stop.
  void step(Engine& engine, const Buffers& inputs, const Buffers& outputs) {
    if (options_.cancelled != nullptr && options_.cancelled->load()) {
      fail(Kind::kCancelled,
           "The call was cancelled; nothing was written. Call again to start over.");
    }
    engine.run(inputs, outputs);
    if (!begun_ && stage_ + 1 < call_.mode.stages.size()) {
      interpreter_.load_ahead(call_.mode.stages[stage_ + 1]);
    }
    begun_ = true;
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
  bool begun_ = false;  // whether a graph of the stage has run
  std::int64_t chunk_ = 0, chunks_ = 1, done_ = 0;
  const std::int64_t total_;
  std::vector<std::string> warnings_;
};

}  // namespace

Result run_call(Interpreter& interpreter, const Call& call, const RunOptions& options) {
  return Running(interpreter, call, options).run();
}

}  // namespace edgereel_runtime
