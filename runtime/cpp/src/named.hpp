// Entries by name, in the order they were written in.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace edgereel_runtime {

using Words = std::vector<std::string>;

template <typename T>
struct Named {
  std::vector<std::pair<std::string, T>> entries;

  const T* find(const std::string& name) const {
    for (const auto& entry : entries) {
      if (entry.first == name) return &entry.second;
    }
    return nullptr;
  }
  const T& at(const std::string& name) const { return *find(name); }
  bool has(const std::string& name) const { return find(name) != nullptr; }
  Words keys() const {
    Words all;
    for (const auto& entry : entries) all.push_back(entry.first);
    return all;
  }
  auto begin() const { return entries.begin(); }
  auto end() const { return entries.end(); }
};

}  // namespace edgereel_runtime
