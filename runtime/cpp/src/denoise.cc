#include "denoise.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "errors.hpp"

namespace edgereel_runtime {
namespace {

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

bool finite(const Array& array) {
  const float* numbers = array.as<float>();
  return std::all_of(numbers, numbers + array.count(), [](float x) { return std::isfinite(x); });
}

// What one step reads and another writes: latents, and what it makes of the final result.
struct Pair {
  Buffer x, x0;
};

class Loop {
 public:
  Loop(Backend& backend, const Sampled& sampled, const Steps& steps, const Stepping& stepping)
      : backend_(backend), sampled_(sampled), steps_(steps), stepping_(stepping) {
    const GraphSpec& graph = sampled.graph;
    const Dims& dims = sampled.x.dims();
    for (Pair& pair : pairs_) {
      pair = {backend.empty(DType::kFloat32, dims), backend.empty(DType::kFloat32, dims)};
    }
    bound_ = sampled.conditions;
    const auto guided = static_cast<std::int64_t>(steps.weights.size());
    bind("weights", backend.put(floats(steps.weights.data(), {guided})));
    const auto count = static_cast<std::int64_t>(steps.rows.size());
    rows_ = backend.put(floats(steps.rows.data()->data(), {count, std::int64_t(kRowWidth)}));
    row_ = bind("row", backend.empty(DType::kFloat32, {std::int64_t(kRowWidth)}));
    has_prev_ = graph.inputs.has("prev");
    has_noise_ = graph.inputs.has("noise");
    if (has_prev_ || has_noise_) zeros_ = backend.put(zeros(dims));
    if (has_noise_) noise_ = bind("noise", backend.empty(DType::kFloat32, dims));
  }

  // Runs the steps until `after`, which sees what each of them made, is true.
  template <typename After>
  Buffer run(After after) {
    Pair* last = &pairs_[1];
    backend_.copy(sampled_.x, last->x);
    if (has_prev_) backend_.copy(zeros_, last->x0);
    if (has_noise_) backend_.copy(zeros_, noise_);
    for (std::size_t k = 0; k < steps_.rows.size(); ++k) {
      Pair* next = last == &pairs_[0] ? &pairs_[1] : &pairs_[0];
      step(k, *last, *next);
      last = next;
      if (after(static_cast<std::int64_t>(k), *last)) break;
    }
    return last->x;
  }

 private:
  const Buffer& bind(const std::string& name, Buffer buffer) {
    return bound_.entries.emplace_back(name, std::move(buffer)).second;
  }

  void step(std::size_t k, const Pair& last, const Pair& next) {
    if (sampled_.op.noise && steps_.rows[k][kCNoise] != 0) {
      const auto index = steps_.first + static_cast<std::int64_t>(k);
      backend_.copy(backend_.put(stepping_.draw(index)), noise_);
    }
    backend_.copy(rows_[static_cast<std::int64_t>(k)], row_);
    Buffers inputs = bound_;
    inputs.entries.emplace_back("x", last.x);
    if (has_prev_) inputs.entries.emplace_back("prev", last.x0);
    Buffers outputs;
    outputs.entries = {{"x_next", next.x}, {"x0", next.x0}};
    stepping_.run(inputs, outputs);
  }

  Backend& backend_;
  const Sampled& sampled_;
  const Steps& steps_;
  const Stepping& stepping_;
  Pair pairs_[2];
  Buffers bound_;  // the same in all steps
  Buffer rows_, row_, zeros_, noise_;
  bool has_prev_ = false, has_noise_ = false;
};

// Names the step that first makes something else than numbers, which costs the loop once more.
[[noreturn]] void blame(Backend& backend, Loop& loop, const Sampled& sampled, const Steps& steps) {
  std::int64_t bad = 0;
  loop.run([&](std::int64_t k, const Pair& made) {
    if (!finite(backend.get(made.x))) bad = k + 1;
    return bad != 0;
  });
  const std::string count = std::to_string(steps.rows.size());
  const std::string place =
      bad != 0 ? "after step " + std::to_string(bad) + " of " + count
               : "after its " + count + " steps, though they were when it ran once more";
  fail(Kind::kEngine, "graph " + sampled.op.graph + ": its latents are not finite " + place +
                          "; expected numbers that its precision can hold. Run `edgereel verify`, "
                          "and compile the graph in fp32 if it fails there.");
}

}  // namespace

Buffer denoised(Backend& backend, const Sampled& sampled, const Steps& steps,
                const Stepping& stepping) {
  if (steps.rows.empty()) return sampled.x;
  Loop loop(backend, sampled, steps, stepping);
  const auto count = static_cast<std::int64_t>(steps.rows.size());
  const Buffer x = loop.run([&](std::int64_t k, const Pair& made) {
    stepping.report(k + 1, count, made.x0);
    return false;
  });
  if (!finite(backend.get(x))) blame(backend, loop, sampled, steps);
  return x;
}

}  // namespace edgereel_runtime
