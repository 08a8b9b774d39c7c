// The provider trt on a GPU that is none (fake_gpu.hpp): what it asks of CUDA and TensorRT, and
// that a cascade makes on it what it makes in host memory.
//
//   trt_test                  the parts; says "passed"
//   trt_test FOLDER MODE ...  a cascade with fake engines, MODE's params as name=value; says
//                             "equal", what was asked, or the sentence that refuses it
#include "trt.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <stdexcept>

#include "cuda.hpp"
#include "errors.hpp"
#include "fake_gpu.hpp"
#include "interpreter.hpp"
#include "trt_engine.hpp"

namespace {

using namespace edgereel_runtime;
using fake::machine;

void expect(bool fine, const char* what, int line) {
  if (!fine) throw std::runtime_error("line " + std::to_string(line) + ": " + what);
}
#define EXPECT(condition) expect(condition, #condition, __LINE__)

template <typename Work>
std::string refusal(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}

bool says(const std::string& sentence, const std::string& part) {
  if (sentence.find(part) != std::string::npos) return true;
  std::cerr << sentence << "\n";
  return false;
}

using Rows = std::pair<std::int64_t, std::int64_t>;  // the fewest and the most of a profile

// An engine x -> y, with one static profile for each of 1 and 2 rows.
struct Doubled {
  explicit Doubled(std::int64_t scratch = 0, std::shared_ptr<TrtShared> with = nullptr,
                   const std::vector<Rows>& profiles = {{1, 1}, {2, 2}})
      : shared(with ? with : std::make_shared<TrtShared>()) {
    const std::string plan =
        "x FLOAT in K 2\ny FLOAT out K 2\nscratch " + std::to_string(scratch) + "\n";
    runtime.reset(nvinfer1::createInferRuntime(logger));
    std::unique_ptr<nvinfer1::ICudaEngine> made(
        runtime->deserializeCudaEngine(plan.data(), plan.size()));
    BuiltEngine record;
    for (const auto& [low, high] : profiles) {
      Profile profile;
      profile.entries.emplace_back("x", std::array<Dims, 3>{Dims{low, 2}, {low, 2}, {high, 2}});
      record.profiles.push_back(profile);
    }
    engine = std::make_unique<TrtEngine>(std::move(made), "double", record, shared);
    machine().log.clear();
  }

  void run(const Buffer& x, const Buffer& y) {
    Buffers inputs, outputs;
    inputs.entries.emplace_back("x", x);
    outputs.entries.emplace_back("y", y);
    engine->run(inputs, outputs);
  }

  Buffer rows(std::int64_t count) { return shared->memory.empty(DType::kFloat32, {count, 2}); }

  struct Silent : nvinfer1::ILogger {
    void log(Severity, const char*) noexcept override {}
  } logger;
  std::shared_ptr<TrtShared> shared;
  std::unique_ptr<nvinfer1::IRuntime> runtime;
  std::unique_ptr<TrtEngine> engine;
};

Array numbers(std::int64_t rows, float first) {
  Array array(DType::kFloat32, {rows, 2});
  for (std::size_t i = 0; i < array.count(); ++i) {
    array.as<float>()[i] = first + static_cast<float>(i);
  }
  return array;
}

Buffer put(CudaMemory& memory, const Array& array) {
  const Buffer buffer = memory.empty(array.dtype(), array.dims());
  memory.copy(array, buffer);
  return buffer;
}

// What the fake graph makes of x.
Array made_of(const Array& x) {
  Array y(DType::kFloat32, x.dims());
  fake::compute({{"x", x.dtype(), x.dims(), x.raw()}}, {{"y", y.dtype(), y.dims(), y.raw()}});
  return y;
}

bool equal(const Array& one, const Array& other) {
  return one.dims() == other.dims() && std::memcmp(one.raw(), other.raw(), one.bytes()) == 0;
}

using Log = std::vector<std::string>;

void views_run_without_waiting() {
  Doubled test;
  CudaMemory& memory = test.shared->memory;
  const Array x = numbers(3, 1);
  const Buffer source = put(memory, x), target = test.rows(3);
  const std::size_t before = machine().waits;
  test.run(source.part(0, 2), target.part(0, 2));
  test.run(source.part(2, 3), target.part(2, 3));  // neither begins where a tensor may
  EXPECT(machine().waits == before && machine().done < machine().queued);
  EXPECT(equal(memory.get(target.part(0, 2)), made_of(x.part(0, 2))));
  EXPECT(equal(memory.get(target.part(2, 3)), made_of(x.part(2, 3))));
  EXPECT(equal(memory.get(target[2]), made_of(x.part(2, 3))[0]));
  EXPECT(machine().waits == before + 3);
}

void nothing_is_bound_twice() {
  Doubled test;
  const Buffer x = test.rows(1), y = test.rows(1), other = test.rows(1), wide = test.rows(2);
  test.run(x, y);
  EXPECT((machine().log == Log{"profile 0", "shape x", "address x", "address y", "enqueue"}));
  machine().log.clear();
  test.run(x, other);
  EXPECT((machine().log == Log{"address y", "enqueue"}));
  machine().log.clear();
  test.run(wide, test.rows(2));  // a context of its own, which leaves the other's bindings
  test.run(other, y);
  EXPECT((machine().log == Log{"profile 1", "shape x", "address x", "address y", "enqueue",
                               "address x", "address y", "enqueue"}));
}

void the_second_sighting_is_recorded() {
  Doubled test;
  CudaMemory& memory = test.shared->memory;
  const Buffer one = put(memory, numbers(1, 0.5f)), other = test.rows(1);
  const std::size_t recorded = machine().recorded, played = machine().played;
  for (int k = 0; k < 5; ++k) {
    test.run(one, other);
    test.run(other, one);
  }
  EXPECT(machine().recorded == recorded + 2 && machine().played == played + 8);
  Array wanted = numbers(1, 0.5f);
  for (int k = 0; k < 10; ++k) wanted = made_of(wanted);
  EXPECT(equal(memory.get(one), wanted));
}

void few_recordings_are_kept() {
  Doubled test;
  std::vector<Buffer> all;
  for (int k = 0; k < 7; ++k) all.push_back(test.rows(1));
  const std::size_t graphs = machine().graphs;
  for (int round = 0; round < 2; ++round) {
    for (int k = 0; k < 6; ++k) test.run(all[0], all[std::size_t(k) + 1]);
  }
  EXPECT(machine().graphs == graphs + 4);
  const std::size_t played = machine().played;
  machine().log.clear();
  test.run(all[0], all[6]);
  EXPECT(machine().played == played + 1 && machine().log.empty());
  test.engine.reset();
  EXPECT(machine().graphs == graphs);
}

void what_cannot_be_recorded_stays_direct() {
  machine().captures = false;
  Doubled test;
  const Array x = numbers(1, 3);
  const Buffer source = put(test.shared->memory, x), target = test.rows(1);
  for (int k = 0; k < 4; ++k) test.run(source, target);
  machine().captures = true;
  test.run(source, target);  // nor is it tried again
  EXPECT(std::count(machine().log.begin(), machine().log.end(), "enqueue") == 5);
  EXPECT(equal(test.shared->memory.get(target), made_of(x)));
}

// With a range of shapes, a context is told of each new one; that call is queued directly.
void a_new_shape_is_queued_directly() {
  Doubled test(0, nullptr, {{1, 2}});
  const Buffer narrow = test.rows(1), wide = test.rows(2), y = test.rows(1), z = test.rows(2);
  const std::size_t recorded = machine().recorded, graphs = machine().graphs;
  for (int k = 0; k < 3; ++k) {
    test.run(narrow, y);
    test.run(wide, z);
  }
  EXPECT(machine().recorded == recorded);
  test.run(wide, z);
  EXPECT(machine().recorded == recorded + 1 && machine().graphs == graphs + 1);
  machine().log.clear();
  test.run(narrow, y);
  EXPECT((machine().log == Log{"shape x", "address x", "address y", "enqueue"}));
  EXPECT(machine().graphs == graphs);
}

void two_calls_stay_in_flight() {
  Doubled test;
  const Buffer x = put(test.shared->memory, numbers(1, 1)), y = test.rows(1);
  test.shared->memory.finish();
  const std::size_t waits = machine().waits, start = machine().queued;
  for (std::size_t k = 1; k <= 6; ++k) {
    test.run(x, y);
    EXPECT(machine().queued == start + k);
    EXPECT(machine().done == start + (k > 2 ? k - 2 : 0));
  }
  EXPECT(machine().waits == waits);
}

void the_arena_is_shared_and_grows_once() {
  const auto shared = std::make_shared<TrtShared>();
  Doubled large(5000, shared), small(100, shared), larger(9000, shared);
  machine().log.clear();
  const Buffer x = large.rows(1), y = large.rows(1);
  const auto runs = [&](Doubled& test, int count) {
    for (int k = 0; k < count; ++k) test.run(x, y);
  };
  const std::size_t blocks = machine().blocks;
  runs(large, 3);
  runs(small, 3);
  EXPECT(shared->arena.bytes == 5000 && machine().blocks == blocks + 1);
  EXPECT(std::count(machine().log.begin(), machine().log.end(), "memory 5000") == 2);
  const std::size_t graphs = machine().graphs;
  runs(larger, 1);
  EXPECT(shared->arena.bytes == 9000);
  shared->memory.finish();
  EXPECT(machine().blocks == blocks + 1);  // the old one is gone
  machine().log.clear();
  runs(large, 1);  // what it recorded is not played into memory that is gone
  EXPECT((machine().log == Log{"memory 9000", "enqueue"}) && machine().graphs == graphs - 1);
  EXPECT(shared->arena.moves == 2);
}

void memory_goes_with_its_last_view() {
  CudaMemory memory;
  const std::size_t before = machine().blocks;
  Buffer view = put(memory, numbers(4, 0)).part(1, 3);
  EXPECT(machine().blocks == before + 1);
  EXPECT(equal(memory.get(view), numbers(4, 0).part(1, 3)));
  view = Buffer();
  memory.finish();
  EXPECT(memory.free_bytes() == (std::int64_t(1) << 32) + 400);  // the pool keeps some
  EXPECT(machine().blocks == before);
  EXPECT(says(refusal([&] { memory.empty(DType::kFloat32, {1 << 30, 2}); }),
              "CUDA failed to allocate 8589934592 bytes (cudaErrorMemoryAllocation); expected a "
              "GPU with enough free memory."));
}

void pinned_memory_is_used_again() {
  CudaMemory memory;
  const std::size_t before = machine().pinned;
  const Buffer target = memory.empty(DType::kFloat32, {4, 2});
  Array x = numbers(1, 0);
  for (int k = 0; k < 8; ++k) {
    memory.copy(x, target.part(k % 4, k % 4 + 1));
    x.as<float>()[0] += 1;  // it may change
    memory.pace();
  }
  EXPECT(machine().pinned == before + 3);  // of two calls in flight, and the next
  const Array found = memory.get(target);
  for (int k = 0; k < 4; ++k) EXPECT(found.as<float>()[2 * k] == static_cast<float>(k + 4));
  EXPECT(machine().pinned == before);
}

void older_devices_have_no_pools() {
  machine().pools = false;
  {
    Doubled test(64);
    const Array x = numbers(2, 7);
    const Buffer y = test.rows(2);
    for (int k = 0; k < 3; ++k) test.run(put(test.shared->memory, x), y);
    EXPECT(equal(test.shared->memory.get(y), made_of(x)));
  }
  machine().pools = true;
}

void what_does_not_fit_is_refused() {
  Doubled test;
  const Buffer x = test.rows(3);
  EXPECT(says(refusal([&] { test.run(x, x); }),
              "graph double: no profile takes x [3, 2]; its engine was compiled for x [1, 2] or x "
              "[2, 2]. Use one of those, or compile again with `--profile PARAM=SIZES`"));
  machine().gpu = false;
  EXPECT(says(refusal([] { CudaMemory memory; }), "no CUDA GPU answers here; provider trt needs"));
  machine().gpu = true;
}

// The same graphs in host memory.
class HostEngine : public Engine {
 public:
  void run(const Buffers& inputs, const Buffers& outputs) override {
    fake::compute(tensors(inputs), tensors(outputs));
  }

 private:
  static std::vector<fake::Tensor> tensors(const Buffers& buffers) {
    std::vector<fake::Tensor> all;
    for (const auto& [name, buffer] : buffers) {
      all.push_back({name, buffer.dtype(), buffer.dims(), buffer.memory().raw()});
    }
    return all;
  }
};

class HostBackend : public HostMemory {
 public:
  std::unique_ptr<Engine> load(const std::string&, const GraphSpec&) override {
    return std::make_unique<HostEngine>();
  }
  std::optional<std::int64_t> free_memory() override { return std::nullopt; }
};

Array mixture(DType dtype, const Dims& dims, int seed) {
  Array array(dtype, dims);
  for (std::size_t i = 0; i < array.count(); ++i) {
    const auto number = static_cast<int>((i * 37 + static_cast<std::size_t>(seed) * 11) % 251);
    if (dtype == DType::kUint8) array.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(number);
    if (dtype == DType::kFloat32) array.as<float>()[i] = static_cast<float>(number) / 7 - 15;
  }
  return array;
}

void values_are_cut_and_joined_on_the_device() {
  CudaMemory memory;
  HostBackend host;
  for (DType dtype : {DType::kFloat32, DType::kUint8}) {
    for (std::size_t axis : {0, 1, 2}) {
      for (const auto& [start, done] : {std::pair(0, 0), std::pair(3, 3), std::pair(1, 5)}) {
        Dims dims = {6, 3, 4};
        dims[axis] = start + 5;
        const Array whole = mixture(dtype, dims, 1);
        dims[axis] = 5;
        const Array part = mixture(dtype, dims, 2);
        const Buffer there = put(memory, whole), half = put(memory, part);
        const std::size_t waits = machine().waits;
        memory.join(there, half, axis, start, done);
        const Buffer piece = memory.cut(there, axis, 1, 4);
        EXPECT(machine().waits == waits);
        host.join(Buffer(whole), Buffer(part), axis, start, done);
        EXPECT(equal(memory.get(there), whole));
        EXPECT(equal(memory.get(piece), host.cut(Buffer(whole), axis, 1, 4).memory()));
      }
    }
  }
}

void numbers_are_mixed_and_checked_on_the_device() {
  CudaMemory memory;
  const Array x = mixture(DType::kFloat32, {5, 7}, 1), z = mixture(DType::kFloat32, {5, 7}, 2);
  const std::size_t waits = machine().waits;
  const Buffer mixed = memory.mixed(put(memory, x), 0.3f, z, 0.7f);
  EXPECT(machine().waits == waits);
  const Array wanted = HostBackend().mixed(Buffer(x), 0.3f, z, 0.7f).memory();
  EXPECT(equal(memory.get(mixed), wanted));
  const std::size_t fetched = machine().fetched;
  EXPECT(memory.is_finite(mixed) && machine().fetched == fetched + 4);
  for (float wrong : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    for (std::size_t place : {0, 17, 34}) {
      const Array copy = mixture(DType::kFloat32, {5, 7}, 1);
      copy.as<float>()[place] = wrong;
      EXPECT(!memory.is_finite(put(memory, copy)));
    }
  }
  const std::size_t kernels = machine().kernels;
  EXPECT(memory.is_finite(memory.empty(DType::kFloat32, {0, 3})) && machine().kernels == kernels);
}

Values given(const std::vector<std::string>& words) {
  Values values;
  for (const std::string& word : words) {
    const std::size_t at = word.find('=');
    const std::string name = word.substr(0, at), value = word.substr(at + 1);
    const bool whole = value.find_first_not_of("0123456789") == std::string::npos;
    values.entries.emplace_back(name, whole ? Value(Int(std::stoll(value))) : Value(value));
  }
  return values;
}

// One call of a mode, and how often the stream was waited for in it.
struct Called {
  Array frames;
  std::size_t waits, steps, played;
  std::size_t fetched;  // bytes copied to the host, beside the frames
};

Called called(Plan& plan, std::unique_ptr<Backend> backend, const std::string& mode,
              const Values& settings, bool low_vram) {
  Interpreter interpreter(plan, std::move(backend), true, low_vram);
  const Mode& chosen = plan.document().modes.at(mode);
  RunOptions options;
  std::size_t steps = 0;
  options.report = [&](const Progress& progress) { steps += progress.step > 0 ? 1 : 0; };
  Array frames;
  std::size_t waits = 0, played = 0, fetched = 0;
  for (int k = 0; k < 2; ++k) {  // the second time, recordings of the first may be there
    waits = machine().waits, played = machine().played, steps = 0;
    fetched = machine().fetched;
    frames = interpreter.run(chosen, fill_params(chosen, settings), options).frames;
    waits = machine().waits - waits, played = machine().played - played;
    fetched = machine().fetched - fetched;
  }
  return {frames, waits, steps, played, fetched - frames.bytes()};
}

int cascade(const std::string& folder, const std::string& mode,
            const std::vector<std::string>& words) {
  try {
    Plan plan(folder);
    const Values settings = given(words);
    const Called host = called(plan, std::make_unique<HostBackend>(), mode, settings, false);
    for (bool low_vram : {false, true}) {
      const Called device = called(plan, make_trt(plan), mode, settings, low_vram);
      const bool same = equal(host.frames, device.frames) && host.steps == device.steps;
      std::cout << (same ? "equal" : "different") << " steps " << device.steps << " waits "
                << device.waits << " played " << device.played << " fetched " << device.fetched
                << "\n";
    }
    std::cout << "blocks " << machine().blocks << " graphs " << machine().graphs << " pinned "
              << machine().pinned << "\n";
  } catch (const Error& error) {
    std::cout << error.what() << "\n";
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count > 2) return cascade(words[1], words[2], {words + 3, words + count});
  const std::pair<const char*, void (*)()> all[] = {
      {"views", views_run_without_waiting},
      {"binding", nothing_is_bound_twice},
      {"recording", the_second_sighting_is_recorded},
      {"few recordings", few_recordings_are_kept},
      {"no recording", what_cannot_be_recorded_stays_direct},
      {"new shapes", a_new_shape_is_queued_directly},
      {"pace", two_calls_stay_in_flight},
      {"arena", the_arena_is_shared_and_grows_once},
      {"memory", memory_goes_with_its_last_view},
      {"staging", pinned_memory_is_used_again},
      {"no pools", older_devices_have_no_pools},
      {"between graphs", values_are_cut_and_joined_on_the_device},
      {"numbers", numbers_are_mixed_and_checked_on_the_device},
      {"refusals", what_does_not_fit_is_refused},
  };
  for (const auto& [name, test] : all) {
    try {
      test();
    } catch (const std::exception& error) {
      std::cout << name << ": " << error.what() << "\n";
      return 1;
    }
  }
  EXPECT(machine().blocks == 0 && machine().graphs == 0 && machine().pinned == 0);
  std::cout << "passed\n";
}
