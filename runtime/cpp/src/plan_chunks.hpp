// What must hold for stages in chunks: windows, the parts they cut, and what is joined again.
#pragma once

#include "plan_scope.hpp"

namespace edgereel_runtime {

// A scope that can go into the chunks of a stage.
class Chunks : public Scope {
 public:
  using Scope::Scope;

  // Adds what exists in a chunk: its parts of values, and sizes.
  void enter_chunks(const std::string& place, const Each& each);

  // Adds the value that a chunk's values are joined to.
  void check_collect(const std::string& place, const Each& each, const std::string& chunk,
                     const std::string& whole);

  std::optional<std::string> led;  // axis 0 of chunks that are led
  Sizes lengths;                   // of the axes that windows cut, by their symbols

 private:
  void check_window(const std::string& place, const Window& window);
  void check_lead(const std::string& place, const Each& each, std::size_t index);
  void check_slice(const std::string& place, const std::string& part, const std::string& whole,
                   const Set& symbols);
  Axis grown(const TensorSpec& joined, std::size_t axis, const Axis& length, Int times) const;
};

}  // namespace edgereel_runtime
