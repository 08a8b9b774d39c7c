// Answers tests/test_cpp.py: one JSON object per line of input, one line of output for each, "ok"
// or "error", a status of edgereel.h, and the answer's bytes in hexadecimal digits.
#include <edgereel.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <list>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "builds.hpp"
#include "call.hpp"
#include "close_words.hpp"
#include "errors.hpp"
#include "files.hpp"
#include "host_memory.hpp"
#include "json.hpp"
#include "memory.hpp"
#include "noise.hpp"
#include "plan.hpp"
#include "schedule.hpp"
#include "sha256.hpp"
#include "tokenizer.hpp"

namespace {

using edgereel_runtime::Json;

const Json& part(const Json& json, const std::string& key) {
  const Json* found = json.find(key);
  if (found == nullptr) throw std::runtime_error("the request lacks " + key);
  return *found;
}

std::string text(const Json& json, const std::string& key) { return part(json, key).string; }

std::int64_t whole(const Json& json, const std::string& key) {
  return static_cast<std::int64_t>(part(json, key).whole);
}

double real(const Json& json) {
  return json.type == Json::Type::kInt ? static_cast<double>(json.whole) : json.real;
}

std::string unhex(const std::string& digits) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

template <typename T>
std::string bytes_of(const T* from, std::size_t count) {
  return {reinterpret_cast<const char*>(from), count * sizeof(T)};
}

std::string parse(const Json& json) {
  edgereel_runtime::parse_plan(unhex(text(json, "hex")));
  return "";
}

std::string rows(const Json& json) {
  const Json& eta = part(json, "eta");
  const edgereel_runtime::Sampling sampling{text(json, "sampler"),
                                            text(json, "spacing"),
                                            whole(json, "steps"),
                                            eta.type == Json::Type::kInt
                                                ? edgereel_runtime::Scalar(eta.whole)
                                                : edgereel_runtime::Scalar(eta.real),
                                            text(json, "final"),
                                            text(json, "variance")};
  const edgereel_runtime::Rows all =
      edgereel_runtime::sampler_rows(sampling, edgereel_runtime::read_levels(text(json, "table")));
  return bytes_of(all.data(), all.size());
}

std::string renoise(const Json& json) {
  const Json& from = part(json, "from");
  std::optional<edgereel_runtime::Scalar> start;
  if (from.type != Json::Type::kNull) start = from.whole;
  const auto [c_x, c_z] = edgereel_runtime::renoise_coefficients(
      edgereel_runtime::read_levels(text(json, "table")), start, part(json, "to").whole);
  const double both[] = {c_x, c_z};
  return bytes_of(both, 2);
}

edgereel_runtime::Draw draw_of(const Json& json) {
  return {static_cast<std::uint64_t>(part(json, "seed").whole), text(json, "name"),
          static_cast<std::uint32_t>(whole(json, "chunk")),
          static_cast<std::uint32_t>(whole(json, "step"))};
}

std::string words(const Json& json) {
  std::string all;
  for (std::int64_t block = 0; block < whole(json, "blocks"); ++block) {
    all += bytes_of(
        edgereel_runtime::noise_words(draw_of(json), static_cast<std::uint32_t>(block)).data(), 4);
  }
  return all;
}

std::string normal(const Json& json) {
  std::vector<float> numbers(static_cast<std::size_t>(whole(json, "count")));
  edgereel_runtime::normal(draw_of(json), numbers.data(), numbers.size());
  return bytes_of(numbers.data(), numbers.size());
}

std::string tokens(const Json& json) {
  const edgereel_runtime::TokenizerSpec spec{"tokenizer.json", part(json, "length").whole,
                                             part(json, "pad_id").whole};
  const edgereel_runtime::Tokenizer tokenizer(text(json, "file"), spec);
  std::vector<std::string> texts;
  for (const Json& one : part(json, "texts").array) texts.push_back(one.string);
  const edgereel_runtime::Tokens found = tokenizer.encode(texts);
  const std::size_t count = found.ids.count();
  return bytes_of(found.ids.as<std::int64_t>(), count) +
         bytes_of(found.mask.as<std::int64_t>(), count) +
         bytes_of(found.cut.data(), found.cut.size());
}

std::string close_word(const Json& json) {
  std::vector<std::string> all;
  for (const Json& one : part(json, "words").array) all.push_back(one.string);
  return edgereel_runtime::closest(text(json, "word"), all).value_or("");
}

std::string free_bytes(const Json& json) {
  const auto found = edgereel_runtime::free_memory(text(json, "root"));
  return found ? std::to_string(*found) : "none";
}

// The memory that a call is predicted to take, a line for each stage; with "free" it must suffice.
std::string peaks(const Json& json) {
  const edgereel_runtime::Plan plan(text(json, "folder"));
  const edgereel_runtime::Mode& mode = plan.document().modes.at(text(json, "mode"));
  edgereel_runtime::Values given;
  for (const auto& [name, value] : part(json, "settings").object) {
    const bool word = value.type == Json::Type::kString;
    given.entries.emplace_back(
        name, word ? edgereel_runtime::Value(value.string) : edgereel_runtime::Value(value.whole));
  }
  const edgereel_runtime::Values params = edgereel_runtime::fill_params(mode, given);
  edgereel_runtime::Tables tables;
  for (const auto& [name, schedule] : plan.document().schedules) {
    tables[name] = edgereel_runtime::read_levels(plan.folder() + "/" + schedule.file);
  }
  const edgereel_runtime::Call call({plan.document(), mode, params, tables}, {});
  edgereel_runtime::MemoryAsked asked{plan.document(), plan.folder(), mode, {}, {}};
  asked.kernels = json.find("kernels") != nullptr;
  for (std::size_t i = 0; i < mode.stages.size(); ++i) {
    std::vector<edgereel_runtime::Span> largest;
    for (const auto& spans : call.spans[i]) largest.push_back(spans[0]);
    asked.sizes.push_back(call.chunk_sizes(mode.stages[i], largest));
  }
  if (json.find("free") != nullptr)
    edgereel_runtime::check_memory(asked, whole(json, "free"), false);
  std::string answer;
  for (const edgereel_runtime::Peak& peak :
       edgereel_runtime::stage_peaks(asked, whole(json, "low_vram") != 0)) {
    for (std::int64_t bytes : {peak.weights, peak.values, peak.activations, peak.loading}) {
      answer += std::to_string(bytes) + " ";
    }
  }
  return answer;
}

// The folder of the build that fits, of those of a cascade.
std::string build(const Json& json) {
  edgereel_runtime::WantedBuild wanted;
  wanted.graph = text(json, "graph");
  for (const auto& [file, hash] : part(json, "source").object) {
    wanted.source.entries.emplace_back(file, hash.string);
  }
  if (json.find("precision") != nullptr) wanted.precision = text(json, "precision");
  wanted.library.name = text(json, "library");
  wanted.library.version = [&](const std::string&) { return text(json, "version"); };
  wanted.capability = text(json, "capability");
  const auto found = edgereel_runtime::choose_build(text(json, "cascade"), wanted);
  return found.folder + "\n" + found.engine(wanted.graph);
}

// A status of edgereel.h with its sentence.
struct Status {
  edgereel_status status;
  std::string sentence;
};

void check(edgereel_status status) {
  if (status != EDGEREEL_OK) throw Status{status, edgereel_message()};
}

// Arrays in files of numbers, which live as long as this.
class Arrays {
 public:
  edgereel_array read(const Json& json) {
    contents_.push_back(edgereel_runtime::read_file(text(json, "file")));
    sizes_.emplace_back();
    for (const Json& size : part(json, "sizes").array) {
      sizes_.back().push_back(static_cast<std::int64_t>(size.whole));
    }
    const auto dtype = text(json, "dtype") == "uint8" ? EDGEREEL_UINT8 : EDGEREEL_FLOAT32;
    return {contents_.back().data(), dtype, sizes_.back().data(), sizes_.back().size()};
  }

 private:
  std::list<std::string> contents_;
  std::list<std::vector<std::int64_t>> sizes_;
};

edgereel_setting setting_of(const std::string& name, const Json& value, Arrays& arrays) {
  switch (value.type) {
    case Json::Type::kString:
      return edgereel_text(name.c_str(), value.string.c_str());
    case Json::Type::kInt:
      return value.whole > INT64_MAX
                 ? edgereel_uint(name.c_str(), static_cast<std::uint64_t>(value.whole))
                 : edgereel_int(name.c_str(), static_cast<std::int64_t>(value.whole));
    case Json::Type::kObject:
      return edgereel_frames(name.c_str(), arrays.read(value));
    default:
      return edgereel_float(name.c_str(), real(value));
  }
}

// Cascades stay loaded to the end, as in an app.
std::map<std::string, edgereel_cascade*> loaded;

edgereel_cascade* cascade_of(const Json& json) {
  const std::string folder = text(json, "folder");
  const Json* alone = json.find("alone");
  const std::string key = folder + (alone != nullptr ? alone->string : "");
  if (loaded.count(key) == 0) {
    edgereel_cascade_params params;
    edgereel_cascade_params_init(&params);
    const Json* kernels = json.find("kernels");
    params.kernels = kernels != nullptr ? kernels->string.c_str() : "";
    const Json* provider = json.find("provider");
    if (provider != nullptr) params.provider = provider->string.c_str();
    params.threads = 1;
    edgereel_cascade* cascade = nullptr;
    check(edgereel_cascade_create(folder.c_str(), &params, &cascade));
    loaded[key] = cascade;
  }
  return loaded[key];
}

struct Told {
  std::string steps;
  edgereel_cascade* cascade = nullptr;
  std::int64_t cancel_at = -1, previews = 0;
};

int on_step(const edgereel_progress* progress, void* user) {
  Told& told = *static_cast<Told*>(user);
  told.steps += std::string(progress->stage) + " " + std::to_string(progress->chunk) + " " +
                std::to_string(progress->step) + " " + std::to_string(progress->steps) + "\n";
  if (progress->step == told.cancel_at) {
    std::thread([&] { edgereel_cancel(told.cascade); }).join();
  }
  return progress->step == -told.cancel_at - 2 ? 1 : 0;
}

int on_preview(const edgereel_progress*, const edgereel_array* x0, void* user) {
  if (x0->rank > 0 && x0->dtype == EDGEREEL_FLOAT32) ++static_cast<Told*>(user)->previews;
  return 0;
}

// Frames, fps and warnings of a call, and what its callbacks were told.
std::string generated(edgereel_cascade* cascade, const Json& json) {
  Arrays arrays;
  std::vector<edgereel_setting> settings;
  for (const auto& [name, value] : part(json, "settings").object) {
    settings.push_back(setting_of(name, value, arrays));
  }
  std::vector<edgereel_noise> noise;
  const Json nothing;
  const Json* given = json.find("noise");
  for (const auto& [key, value] : (given != nullptr ? *given : nothing).object) {
    noise.push_back({key.c_str(), arrays.read(value)});
  }
  Told told;
  told.cascade = cascade;
  const Json* cancel = json.find("cancel_at");
  if (cancel != nullptr) told.cancel_at = static_cast<std::int64_t>(cancel->whole);
  edgereel_call_params params;
  edgereel_call_params_init(&params);
  const Json* mode = json.find("mode");
  params.mode = mode != nullptr ? mode->string.c_str() : nullptr;
  params.settings = settings.data();
  params.setting_count = settings.size();
  params.noise = noise.data();
  params.noise_count = noise.size();
  params.on_step = on_step;
  params.on_preview = on_preview;
  params.user = &told;
  edgereel_video* video = nullptr;
  check(edgereel_generate(cascade, &params, &video));
  const int64_t* sizes = edgereel_video_sizes(video);
  std::string answer = told.steps + "previews " + std::to_string(told.previews) + "\n";
  for (std::size_t i = 0; const char* warning = edgereel_video_warning(video, i); ++i) {
    answer += std::string("warning ") + warning + "\n";
  }
  answer += "fps " + edgereel_runtime::text(edgereel_video_fps(video)) + "\nsizes";
  for (int axis = 0; axis < 4; ++axis) answer += " " + std::to_string(sizes[axis]);
  const auto count = static_cast<std::size_t>(sizes[0] * sizes[1] * sizes[2] * sizes[3]);
  answer += "\n" + bytes_of(edgereel_video_frames(video), count);
  const Json* save = json.find("save");
  const edgereel_status saved =
      save != nullptr ? edgereel_video_save(video, save->string.c_str()) : EDGEREEL_OK;
  edgereel_video_free(video);
  check(saved);
  return answer;
}

std::string generate(const Json& json) { return generated(cascade_of(json), json); }

// Two cascades, or one, in two threads.
std::string in_threads(const Json& json) {
  std::string answers[2];
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 2; ++i) {
    const Json& call = part(json, "calls").array[i];
    edgereel_cascade* cascade = cascade_of(call);
    threads.emplace_back([&answers, cascade, &call, i] {
      try {
        answers[i] = generated(cascade, call);
      } catch (const Status& status) {
        answers[i] = status.sentence;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return std::to_string(answers[0].size()) + "\n" + answers[0] + answers[1];
}

// Of a file that comes in pieces, with and without the processor's instructions.
std::string hash(const Json& json) {
  const std::string bytes = edgereel_runtime::read_file(text(json, "file"));
  const auto piece = static_cast<std::size_t>(whole(json, "piece"));
  edgereel_runtime::Sha256 hashes[] = {edgereel_runtime::Sha256(true),
                                       edgereel_runtime::Sha256(false)};
  for (std::size_t at = 0; at < bytes.size(); at += piece) {
    for (auto& hash : hashes) hash.add(bytes.data() + at, std::min(piece, bytes.size() - at));
  }
  return hashes[0].hex() + hashes[1].hex();
}

void answer(const char* state, int status, const std::string& bytes) {
  std::string digits;
  for (char byte : bytes) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", static_cast<unsigned char>(byte));
    digits += two;
  }
  std::cout << state << ' ' << status << ' ' << digits << std::endl;
}

}  // namespace

int main() {
  const std::map<std::string, std::function<std::string(const Json&)>> known = {
      {"parse", parse},       {"rows", rows},     {"renoise", renoise},    {"words", words},
      {"normal", normal},     {"tokens", tokens}, {"close", close_word},   {"free", free_bytes},
      {"generate", generate}, {"peaks", peaks},   {"threads", in_threads}, {"build", build},
      {"hash", hash}};
  for (std::string line; std::getline(std::cin, line);) {
    try {
      const Json json = edgereel_runtime::parse_json(line);
      answer("ok", 0, known.at(text(json, "do"))(json));
    } catch (const Status& status) {
      answer("error", status.status, status.sentence);
    } catch (const edgereel_runtime::Error& error) {
      answer("error", 1 + static_cast<int>(error.kind), error.what());
    } catch (const std::exception& error) {
      answer("error", -1, error.what());
    }
  }
  for (const auto& entry : loaded) edgereel_cascade_destroy(entry.second);
}
