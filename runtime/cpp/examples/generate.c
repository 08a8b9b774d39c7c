/* A video from a prompt, in C: generate CASCADE PROMPT OUT.mp4 [SEED] */
#include <edgereel.h>
#include <stdio.h>
#include <stdlib.h>

static int told(const edgereel_progress* progress, void* user) {
  (void)user;
  fprintf(stderr, "\r%3.0f %% %-16s", 100 * progress->done, progress->stage);
  return 0; /* anything else cancels */
}

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: %s CASCADE PROMPT OUT.mp4 [SEED]\n", argv[0]);
    return 2;
  }
  edgereel_setting settings[] = {
      edgereel_text("prompt", argv[2]),
      edgereel_uint("seed", argc > 4 ? strtoull(argv[4], NULL, 10) : 0),
  };
  edgereel_call_params call;
  edgereel_call_params_init(&call);
  call.settings = settings;
  call.setting_count = sizeof settings / sizeof *settings;
  call.on_step = told;

  edgereel_cascade* cascade = NULL;
  edgereel_video* video = NULL;
  edgereel_status status = edgereel_cascade_create(argv[1], NULL, &cascade);
  if (!status) status = edgereel_generate(cascade, &call, &video);
  if (!status) status = edgereel_video_save(video, argv[3]);
  fprintf(stderr, "\n%s\n", status ? edgereel_message() : argv[3]);
  for (size_t i = 0; video != NULL && edgereel_video_warning(video, i) != NULL; ++i) {
    fprintf(stderr, "%s\n", edgereel_video_warning(video, i));
  }
  edgereel_video_free(video);
  edgereel_cascade_destroy(cascade);
  return status ? 1 : 0;
}
