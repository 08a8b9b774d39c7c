// The noise of a call: every draw has a name, and may be given instead of drawn.
#pragma once

#include <optional>
#include <set>

#include "backend.hpp"
#include "params.hpp"

namespace edgereel_runtime {

// One draw that a call asks for.
struct Wanted {
  std::string name;                   // of the stream
  Dims dims;                          // leading axes that a caller shares are left to it
  std::optional<std::int64_t> step;   // in the trajectory; none outside a loop
  std::optional<std::int64_t> chunk;  // none outside chunks and for shared noise
  bool part = false;                  // only the first entries of the draw are wanted
};

// The keys of the draws of noise and renoise ops, and of denoise ops: step 0, chunk 0.
struct FirstKeys {
  std::set<std::string> once, steps;
};
FirstKeys first_keys(const Mode& mode, const Values& params);

class Draws {
 public:
  // `given` replaces draws, by the keys of engines/README.md; throws Error for a key that belongs
  // to none.
  Draws(std::uint64_t seed, Arrays given, const FirstKeys& keys);

  // f32, standard normal; throws Error if what was given does not fit.
  Array draw(const Wanted& wanted) const;

 private:
  std::uint64_t seed_;
  Arrays given_;
};

}  // namespace edgereel_runtime
