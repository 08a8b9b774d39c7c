// What ops read and make, whatever kind they are.
#pragma once

#include "plan_format.hpp"

namespace edgereel_runtime {

template <class... Kinds>
struct Match : Kinds... {
  using Kinds::operator()...;
};
template <class... Kinds>
Match(Kinds...) -> Match<Kinds...>;

Words reads(const Op& op);
Words writes(const Op& op);

// The graph that an op calls, or nullptr.
const std::string* graph_of(const Op& op);

}  // namespace edgereel_runtime
