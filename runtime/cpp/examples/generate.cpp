// A video from a prompt, in C++: generate CASCADE PROMPT OUT.mp4 [SEED]
#include <cstdlib>
#include <edgereel.hpp>
#include <iostream>

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: " << argv[0] << " CASCADE PROMPT OUT.mp4 [SEED]\n";
    return 2;
  }
  try {
    edgereel::Cascade cascade(argv[1]);
    edgereel::Call call;
    call.set("prompt", argv[2]).set("seed", argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 0);
    call.on_step = [](const edgereel_progress& progress) {
      std::cerr << '\r' << static_cast<int>(100 * progress.done) << " % " << progress.stage
                << "   ";
      return true;  // false cancels
    };
    const edgereel::Video video = cascade.generate(call);
    video.save(argv[3]);
    std::cerr << '\n' << video.count() << " frames, " << video.fps() << " per second\n";
  } catch (const edgereel::Failure& failure) {
    std::cerr << '\n' << failure.what() << '\n';
    return 1;
  }
}
