// Everything one call fixes before an engine runs: sizes, kept rows, step tables, noise.
#pragma once

#include <functional>
#include <map>
#include <set>

#include "call_draws.hpp"
#include "call_start.hpp"
#include "schedule.hpp"
#include "windows.hpp"

namespace edgereel_runtime {

// The steps of one denoise op.
struct Steps {
  Rows rows;
  std::vector<float> weights;
  std::int64_t first = 0;         // index of rows[0] in the whole trajectory
  std::vector<float> trajectory;  // timesteps of all rows, also of those that a range cuts
};

using Tables = std::map<std::string, Levels>;

// What a user asks for, as far as the call needs it.
struct Asked {
  const Document& plan;
  const Mode& mode;
  const Values& params;
  const Tables& tables;
};

// One mode with the user's params, resolved as far as possible without running a graph. All bad
// values surface here, as Error.
class Call {
 public:
  Call(const Asked& asked, const Arrays& given_noise);

  Dims dims(const std::string& value, const Numbers& sizes) const;

  // A numeric param as the value of its name.
  Array filled(const std::string& name, const Numbers& sizes) const;

  // A guess at what an op costs: elements its graph writes in all its calls.
  std::int64_t work(const Op& op, const Numbers& sizes) const;
  std::int64_t total_work() const;

  // The sizes of all symbols in the chunk that lies in these spans of the windows.
  Numbers chunk_sizes(const Stage& stage, const std::vector<Span>& spans) const;

  // The axes that the windows cut a value on to make `part`, each with its span.
  std::vector<std::pair<std::size_t, Span>> cuts(const std::string& part, const Each& each,
                                                 const std::vector<Span>& spans) const;

  // The values that are still needed after a stage.
  std::set<std::string> read_after(std::size_t stage) const;

  const Document& plan;
  const Mode& mode;
  const Values& params;
  Draws draws;
  std::map<std::string, std::vector<std::size_t>> kept;      // rows -> indices
  std::map<std::string, Steps> steps;                        // by the `out` of the denoise op
  std::map<std::string, std::pair<double, double>> renoise;  // by the `out` of the renoise op
  Arrays videos;
  Numbers sizes;
  std::vector<std::vector<std::vector<Span>>> spans;  // of each window of each stage

 private:
  std::vector<double> weights(const Guidance& guidance) const;
  std::vector<std::size_t> kept_rows(const std::string& rows) const;
  void add_row_sizes();
  std::vector<std::vector<Span>> spans_of(const Stage& stage) const;
  std::vector<Span> spans_of(const Stage& stage, const Window& window) const;
  void resolve(const Op& op, const Tables& tables);
  Steps steps_of(const Denoise& op, const Levels& table) const;
  void check_inputs(const Denoise& op, const std::string& sampler, const Rows& rows) const;
  std::optional<Scalar> lowered(const std::optional<Scalar>& t, const std::string& along) const;
  template <typename T>
  void check_order(const std::optional<T>& clean, const T& noisy) const;
};

// Every combination of one span of each window, the first window outermost.
void each_chunk(const std::vector<std::vector<Span>>& spans,
                const std::function<void(const std::vector<Span>&)>& use);

}  // namespace edgereel_runtime
