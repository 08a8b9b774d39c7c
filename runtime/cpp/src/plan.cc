#include "plan.hpp"

#include <filesystem>
#include <system_error>

#include "errors.hpp"
#include "files.hpp"
#include "plan_check.hpp"

namespace edgereel_runtime {
namespace {

namespace fs = std::filesystem;

Json document_of(const std::string& text) {
  try {
    return parse_json(text);
  } catch (const JsonError& error) {
    wrong("plan.json", "is not JSON (" + std::string(error.what()) + ")", "JSON in UTF-8");
  }
}

bool lies_in(const fs::path& folder, const fs::path& file) {
  for (fs::path parent = file.parent_path(); !parent.empty(); parent = parent.parent_path()) {
    if (parent == folder) return true;
    if (parent == parent.parent_path()) return false;
  }
  return false;
}

// The path of `file`, which lies in `folder` even when links are followed.
std::string inside(const std::string& folder, const std::string& file) {
  const fs::path path = fs::path(folder) / file;
  std::error_code error;
  const fs::path whole = fs::weakly_canonical(fs::absolute(folder), error);
  const fs::path real = error ? fs::path() : fs::weakly_canonical(fs::absolute(path), error);
  if (error) wrong("files." + file, "cannot be followed", "a file");
  if (!lies_in(whole, real)) {
    wrong("files." + file, "leads outside the folder, to " + real.string(),
          "a file inside " + whole.string());
  }
  if (!fs::is_regular_file(real, error)) {
    fail(Kind::kPlan, "files." + file + ": there is no such file in " + folder +
                          ", expected one because plan.json names it. Copy the whole folder "
                          "again, or export the cascade again.");
  }
  return path.string();
}

std::string read_plan(const std::string& folder) {
  const std::string path = (fs::path(folder) / "plan.json").string();
  try {
    return read_file(path);
  } catch (const std::system_error& error) {
    fail(Kind::kPlan, path + ": cannot be read (" + error.code().message() +
                          "); expected a cascade folder with a plan.json. Build one with `python "
                          "export/build.py`, or correct the path.");
  }
}

}  // namespace

Document parse_plan(const std::string& text) {
  const Json json = document_of(text);
  const Json* format = json.find("format");
  if (format != nullptr && format->type == Json::Type::kInt && format->whole != kFormat) {
    fail(Kind::kPlan, "format: this plan has format " + edgereel_runtime::text(format->whole) +
                          ", expected 1. Export the cascade again with this version of Edgereel, "
                          "or install the version that wrote it.");
  }
  Document plan = read_document(json);
  check_plan(plan);
  return plan;
}

Plan::Plan(const std::string& folder) : folder_(folder), document_(parse_plan(read_plan(folder))) {
  for (const auto& entry : document_.files) inside(folder_, entry.first);
}

std::string Plan::check_file(const std::string& file) {
  const std::string path = inside(folder_, file);
  const std::lock_guard<std::mutex> hold(lock_);
  if (checked_.count(file)) return path;
  const std::string found = sha256_of_file(path), listed = document_.files.at(file);
  if (found != listed) {
    fail(Kind::kPlan, "files." + file + ": the file has sha256 " + found.substr(0, 16) +
                          "..., expected " + listed.substr(0, 16) +
                          "...; it was changed or damaged. Export the cascade again, or copy its "
                          "whole folder again.");
  }
  checked_.insert(file);
  return path;
}

}  // namespace edgereel_runtime
