// A warp on a CPU: 32 fibers are its lanes, and what lanes do together is done here, as NVIDIA's
// PTX manual lays out the fragments of `mma` and the lanes of `shfl`.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <type_traits>
#include <vector>

#include "../src/gpu_lane.hpp"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

// A warp: lanes run in turn, each until it needs the others.
class Warp {
 public:
  struct Sent {
    std::uint32_t a[4], b[2];
    float value;
    int kind;  // of what is done together; all lanes must do the same
    std::uint64_t turn = 0;
  };

  template <typename Run>
  void run(const Run& run) {
    self = this;
    body = [](int lane, const void* data) { (*static_cast<const Run*>(data))(lane); };
    what = &run;
    for (now = 0; now < 32; ++now) begin();
    for (bool any = true; any;) {
      any = false;
      for (now = 0; now < 32; ++now)
        if (!done[now]) {
          resume();
          any = any || !done[now];
        }
      ++turn;
    }
  }

  // What every lane sent this turn, once all have.
  const Sent (&exchange(const Sent& sent))[32] {
    const std::uint64_t mine = turn;
    const int lane = now;
    Sent(&slot)[32] = slots[mine % 2];
    slot[lane] = sent;
    slot[lane].turn = mine;
    leave(lane);
    for (const Sent& other : slot)
      if (other.turn != mine || other.kind != sent.kind) {
        std::printf("FAILED: lanes of a warp do not do the same\n");
        std::abort();
      }
    return slot;
  }

  int lane() const { return now; }
  static Warp* self;

 private:
  static constexpr std::size_t kStack = 256 << 10;

  void begin() {
    done[now] = false;
    getcontext(&lanes[now]);
    lanes[now].uc_stack = {};
    lanes[now].uc_stack.ss_sp = stacks[now].get();
    lanes[now].uc_stack.ss_size = kStack;
    lanes[now].uc_link = nullptr;
    makecontext(&lanes[now], &Warp::enter, 0);
  }

  static void enter() {
    Warp& warp = *self;
    warp.arrived();
    warp.body(warp.now, warp.what);
    warp.done[warp.now] = true;
    warp.leave(warp.now, true);
  }

  void leave(int lane, [[maybe_unused]] bool last = false) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(last ? nullptr : &fakes[lane], home_stack, home_size);
#endif
    swapcontext(&lanes[lane], &home);
    arrived();
  }

  void arrived() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fakes[now], &home_stack, &home_size);
#endif
  }

  void resume() {
#ifdef __SANITIZE_ADDRESS__
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stacks[now].get(), kStack);
#endif
    swapcontext(&home, &lanes[now]);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  std::vector<std::unique_ptr<char[]>> stacks = [] {
    std::vector<std::unique_ptr<char[]>> made(32);
    for (auto& stack : made) stack.reset(new char[kStack]);
    return made;
  }();
  ucontext_t home, lanes[32];
  bool done[32];
  Sent slots[2][32];
  void (*body)(int, const void*);
  const void* what;
  int now = 0;
  std::uint64_t turn = 1;
  void* fakes[32] = {};
  const void* home_stack = nullptr;
  std::size_t home_size = 0;
};

inline Warp* Warp::self = nullptr;

// Element i of a fragment's register: two halves, or one float.
template <typename T>
double element(std::uint32_t word, int i) {
  if constexpr (std::is_same_v<T, float>)
    return double(edgereel::gpu::number(word & 0xffffe000u));  // a TF32 number: the rest is ignored
  else
    return double(edgereel::to_float(edgereel::gpu::Half(word >> 16 * i)));
}

namespace edgereel::gpu {

template <typename T>
void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  constexpr int kEach = int(sizeof(float) / sizeof(T)), kDepth = 8 * kEach;
  const int lane = Warp::self->lane(), g = lane / 4, t = lane % 4;
  const auto& sent = Warp::self->exchange({{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, 0, kDepth});
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    double sum = double(c[i]);
    for (int k = 0; k < kDepth; ++k) {
      const int quad = k / kEach % 4, later = k / kEach / 4;  // columns of four lanes, then again
      const auto& left = sent[row % 8 * 4 + quad].a[later * 2 + row / 8];
      const auto& right = sent[column * 4 + quad].b[later];
      sum += element<T>(left, k % kEach) * element<T>(right, k % kEach);
    }
    c[i] = float(sum);
  }
}

template void mma<float>(float (&)[4], const std::uint32_t (&)[4], const std::uint32_t (&)[2]);
template void mma<Half>(float (&)[4], const std::uint32_t (&)[4], const std::uint32_t (&)[2]);

float from_quad(float value, int distance) {
  const int lane = Warp::self->lane();
  return Warp::self->exchange({{}, {}, value, -distance})[lane ^ distance].value;
}

}  // namespace edgereel::gpu
