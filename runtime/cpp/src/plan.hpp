// Reads a cascade folder's plan.json, strictly, and hands out its files, checked.
#pragma once

#include <mutex>
#include <set>
#include <string>

#include "plan_format.hpp"

namespace edgereel_runtime {

// The plan written in `text`, all its rules checked, without looking at any file; throws Error.
Document parse_plan(const std::string& text);

// A checked plan with its folder.
class Plan {
 public:
  // Every file that the plan names exists inside the folder; throws Error. Hashes are compared
  // when a file is used.
  explicit Plan(const std::string& folder);

  // The path of a file of the folder, after comparing its sha256 once with `files`; throws Error
  // if it is missing, lies outside the folder, or was changed.
  std::string check_file(const std::string& file);

  const std::string& folder() const { return folder_; }
  const Document& document() const { return document_; }

 private:
  std::string folder_;
  Document document_;
  std::mutex lock_;
  std::set<std::string> checked_;
};

}  // namespace edgereel_runtime
