#include "builds.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>

#include "errors.hpp"
#include "files.hpp"
#include "strict_json.hpp"

namespace edgereel_runtime {

namespace fs = std::filesystem;

constexpr Int kBuildFormat = 1;

namespace {

std::string path_in(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

// The key that a build's own contents lead to.
std::string key_of(const Json& json) {
  const Json nothing;
  Json about;
  about.type = Json::Type::kObject;
  for (const char* name :
       {"format", "library", "compute_capabilities", "options", "recipe", "device", "plugin"}) {
    const Json* found = json.find(name);
    about.object.emplace_back(name, found != nullptr ? *found : nothing);
  }
  Json keys;
  keys.type = Json::Type::kObject;
  for (const auto& [graph, engine] : json.find("graphs")->object) {
    Json facts = about;
    for (const char* name : {"source", "precision", "profiles"}) {
      facts.object.emplace_back(name, *engine.find(name));
    }
    const Json* measured = engine.find("measured");
    if (measured != nullptr && !measured->object.empty()) {
      facts.object.emplace_back("measured", *measured);
    }
    Json key;
    key.type = Json::Type::kString;
    key.string = sha256_of(sorted_json(facts));
    keys.object.emplace_back(graph, key);
  }
  return sha256_of(sorted_json(keys)).substr(0, 16);
}

std::string content_of(const std::string& folder) {
  const std::string path = path_in(folder, "build.json");
  try {
    return read_file(path);
  } catch (const std::system_error& error) {
    fail(Kind::kEngine, path + ": cannot be read (" + error.code().message() +
                            "), every build has one; " + rebuild(folder));
  }
}

// Folders in builds/ that have a build.json, the newest first.
Words find_builds(const std::string& cascade) {
  std::vector<std::pair<double, std::string>> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(fs::path(cascade) / "builds", ignored)) {
    const std::string folder = entry.path().string();
    struct stat status;
    if (starts_with(entry.path().filename().string(), ".") ||
        ::stat(path_in(folder, "build.json").c_str(), &status) != 0) {
      continue;
    }
    const double time = static_cast<double>(status.st_mtim.tv_sec) +
                        static_cast<double>(status.st_mtim.tv_nsec) * 1e-9;
    found.emplace_back(-time, folder);
  }
  std::sort(found.begin(), found.end());
  Words folders;
  for (const auto& entry : found) folders.push_back(entry.second);
  return folders;
}

// Why its source or precision does not fit; empty if they do.
std::string source_problem(const BuiltEngine& engine, const WantedBuild& wanted) {
  std::set<std::string> files;
  for (const std::string& name : wanted.source.keys()) files.insert(name);
  for (const std::string& name : engine.source.keys()) files.insert(name);
  for (const std::string& name : files) {
    const auto hash = [&](const Named<std::string>& all) {
      return all.has(name) ? all.at(name) : "none";
    };
    const std::string mine = hash(wanted.source), its = hash(engine.source);
    if (mine == its) continue;
    return "graph " + wanted.graph + " was compiled from " + name + " with sha256 " +
           its.substr(0, 12) + ", plan.json names " + mine.substr(0, 12);
  }
  if (!wanted.precision || *wanted.precision == engine.precision) return "";
  return "graph " + wanted.graph + " was compiled in " + engine.precision +
         ", plan.json asks for " + *wanted.precision;
}

// Why a build does not fit, naming both sides; empty if it does.
std::string problem_of(const Record& record, const WantedBuild& wanted) {
  const BuiltEngine* engine = record.graphs.find(wanted.graph);
  if (engine == nullptr) {
    return "has engines for " + joined(record.graphs.keys()) + ", this mode also needs " +
           wanted.graph;
  }
  const std::string source = source_problem(*engine, wanted);
  if (!source.empty()) return source;
  const Compiler& made = record.library;
  const std::string version = wanted.library.version(made.version);
  if (made.name != wanted.library.name || made.version != version) {
    return "was compiled by " + made.name + " " + made.version + ", this machine has " +
           wanted.library.name + " " + version;
  }
  if (record.plugin) {
    const auto fact = [&](const char* name) {
      return record.plugin->has(name) ? record.plugin->at(name) : "None";
    };
    return "was compiled with --plugin and needs that of " + fact("name") + " " + fact("version") +
           ", this machine has none";
  }
  const Words& known = record.compute_capabilities;
  if (std::find(known.begin(), known.end(), wanted.capability) != known.end()) return "";
  return "was compiled for compute capabilities " + joined(known) + ", this GPU has " +
         wanted.capability;
}

}  // namespace

std::string rebuild(const std::string& build) {
  return "run `python export/build.py compile " +
         fs::path(build).parent_path().parent_path().string() + " --backend trt`";
}

std::string Build::engine(const std::string& graph) const {
  const BuiltEngine& built = record.graphs.at(graph);
  const std::string path = path_in(folder, built.file);
  std::string content;
  try {
    content = read_file(path);
  } catch (const std::system_error& error) {
    fail(Kind::kEngine, path + ": cannot be read (" + error.code().message() +
                            "), build.json names it as the engine of " + graph + "; " +
                            rebuild(folder));
  }
  const std::string found = sha256_of(content);
  if (found == built.sha256) return content;
  fail(Kind::kEngine, path + ": has sha256 " + found.substr(0, 12) + "..., build.json expects " +
                          built.sha256.substr(0, 12) +
                          "...; the file changed after it was compiled and is not opened; " +
                          rebuild(folder));
}

Build read_build(const std::string& folder) {
  const std::string path = path_in(folder, "build.json");
  const auto refuse = [&](const std::string& problem) {
    fail(Kind::kEngine, path + ": " + problem + "; " + rebuild(folder));
  };
  const std::string content = content_of(folder);
  Json json;
  Build build{folder, {}};
  try {
    json = parse_json(content);
    build.record = read_record(json);
  } catch (const JsonError& error) {
    refuse(std::string(error.what()) + "; expected build.json of format 1");
  } catch (const Misread& found) {
    const std::string at = found.path == "$" ? "" : " - at `" + found.path + "`";
    refuse(found.problem + at + "; expected build.json of format 1");
  }
  if (build.record.format != kBuildFormat) {
    refuse("has format " + text(build.record.format) + ", this version reads " +
           text(kBuildFormat));
  }
  const std::string found = key_of(json), name = fs::path(folder).filename().string();
  if (found != build.record.key || build.record.key != name) {
    refuse("its contents have key " + found + ", it says " + build.record.key +
           " in a folder named " + name + "; it was edited or moved");
  }
  for (const auto& [graph, engine] : build.record.graphs) {
    const std::string& file = engine.file;
    if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos) {
      refuse("graph " + graph + " names the file " + shown(file) +
             ", expected a plain file name inside the build");
    }
  }
  return build;
}

Build choose_build(const std::string& cascade, const WantedBuild& wanted) {
  std::string problem;  // of the newest
  for (const std::string& folder : find_builds(cascade)) {
    std::string found;
    try {
      Build build = read_build(folder);
      found = problem_of(build.record, wanted);
      if (found.empty()) return build;
      found = folder + ": " + found + "; " + rebuild(folder);
    } catch (const Error& error) {
      found = error.what();
    }
    if (problem.empty()) problem = found;
  }
  if (!problem.empty()) fail(Kind::kEngine, problem);
  const std::string builds = path_in(cascade, "builds");
  fail(Kind::kEngine, builds + ": holds no compiled engines, backend trt needs them; " +
                          rebuild(path_in(builds, "none")));
}

}  // namespace edgereel_runtime
