// The errors a user of Edgereel can meet; errors.py has the same tree.
//
// Every message says what was wrong (with the value), what was expected, and what to do.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace edgereel_runtime {

enum class Kind {
  kPlan,         // the cascade folder or its plan.json is wrong
  kInput,        // a prompt, parameter or option is wrong
  kUnavailable,  // the chosen backend cannot run on this machine
  kEngine,       // a graph failed to load or to run
  kOutput,       // the video could not be written
  kCancelled,    // the caller asked to stop
};

class Error : public std::exception {
 public:
  Error(Kind kind, std::string message) : kind(kind), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

  Kind kind;

 private:
  std::string message_;
};

[[noreturn]] inline void fail(Kind kind, std::string message) {
  throw Error(kind, std::move(message));
}

// An error about one place of plan.json, such as `modes.video.stages[2].ops[0].graph`.
[[noreturn]] inline void wrong(const std::string& place, const std::string& problem,
                               const std::string& expected = "") {
  const std::string wanted = expected.empty() ? "" : "; expected " + expected;
  fail(Kind::kPlan,
       place + ": " + problem + wanted + ". Correct it there, or export the cascade again.");
}

}  // namespace edgereel_runtime
