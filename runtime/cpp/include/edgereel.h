/* Plays a cascade folder, made by `python export/build.py`, without Python.

   #include <edgereel.h>
   #include <stdio.h>

   int main(void) {
     edgereel_cascade* cascade = NULL;
     edgereel_video* video = NULL;
     edgereel_setting settings[] = {edgereel_text("prompt", "a red circle moving right"),
                                    edgereel_int("seed", 7)};
     edgereel_call_params call;
     edgereel_call_params_init(&call);
     call.settings = settings;
     call.setting_count = 2;
     if (edgereel_cascade_create("engines/shapes", NULL, &cascade) ||
         edgereel_generate(cascade, &call, &video) || edgereel_video_save(video, "out.mp4")) {
       fprintf(stderr, "%s\n", edgereel_message());
     }
     edgereel_video_free(video);
     edgereel_cascade_destroy(cascade);
   }

   Texts are UTF-8 and end with a zero byte. Nothing here prints or throws. What a function gives
   through a pointer belongs to the library until it is freed; what it takes is copied before it
   returns. NULL may be freed and destroyed. A cascade may be used from several threads; its calls
   run one after the other, those of different cascades at the same time. */
#ifndef EDGEREEL_H
#define EDGEREEL_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define EDGEREEL_API __attribute__((visibility("default")))
#else
#define EDGEREEL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* 0 is success; for anything else edgereel_message() says what was wrong and what to do. */
typedef enum edgereel_status {
  EDGEREEL_OK = 0,
  EDGEREEL_PLAN_ERROR = 1,   /* the cascade folder or its plan.json is wrong */
  EDGEREEL_INPUT_ERROR = 2,  /* a prompt, parameter or option is wrong */
  EDGEREEL_UNAVAILABLE = 3,  /* the chosen backend cannot run on this machine */
  EDGEREEL_ENGINE_ERROR = 4, /* a graph failed to load or to run */
  EDGEREEL_OUTPUT_ERROR = 5, /* the video could not be written */
  EDGEREEL_CANCELLED = 6,    /* the caller asked to stop */
  EDGEREEL_BUG = 7           /* none of these; please report it */
} edgereel_status;

/* The sentence of the last failure in this thread, "" before the first; valid until the next. */
EDGEREEL_API const char* edgereel_message(void);

EDGEREEL_API const char* edgereel_version(void);

/* Cascades */

typedef struct edgereel_cascade edgereel_cascade;

typedef struct edgereel_cascade_params {
  size_t size;             /* of this struct, set by _init */
  const char* onnxruntime; /* libonnxruntime.so or its folder; NULL: the variable
                              EDGEREEL_ONNXRUNTIME, or where the system looks for libraries */
  const char* provider;    /* of ONNX Runtime: "cpu" (the default), "cuda", "tensorrt" or
                              "tensorrt-rtx"; "trt": the engines in the folder's builds/, without
                              ONNX Runtime, if this library was built with EDGEREEL_TENSORRT */
  const char* kernels;     /* library of Edgereel's kernels; NULL: the variable EDGEREEL_KERNELS, or
                              libedgereel_ort.so beside this library, if it is there; "": none */
  int threads;             /* of the CPU; 0 (the default) leaves their number to ONNX Runtime */
  int trust_files;         /* 1: files are used without comparing them with the plan's sha256 */
  int low_vram;            /* 1: the graphs of a stage are dropped after it */
} edgereel_cascade_params;

EDGEREEL_API void edgereel_cascade_params_init(edgereel_cascade_params* params);

/* Reads the folder's plan; graphs load at their first use. `params` may be NULL. */
EDGEREEL_API edgereel_status edgereel_cascade_create(const char* folder,
                                                     const edgereel_cascade_params* params,
                                                     edgereel_cascade** cascade);

EDGEREEL_API void edgereel_cascade_destroy(edgereel_cascade* cascade);

/* Name of a mode of the plan, NULL behind the last; valid as long as the cascade. */
EDGEREEL_API const char* edgereel_cascade_mode(const edgereel_cascade* cascade, size_t index);

/* Settings: params of the plan by name or alias, as `edgereel explain` lists them */

typedef enum edgereel_dtype { EDGEREEL_FLOAT32 = 0, EDGEREEL_UINT8 = 1 } edgereel_dtype;

/* Numbers in C order. */
typedef struct edgereel_array {
  const void* data;
  edgereel_dtype dtype;
  const int64_t* sizes;
  size_t rank;
} edgereel_array;

typedef enum edgereel_setting_type {
  EDGEREEL_SET_TEXT = 0,
  EDGEREEL_SET_INT = 1,
  EDGEREEL_SET_UINT = 2,
  EDGEREEL_SET_FLOAT = 3,
  EDGEREEL_SET_FRAMES = 4
} edgereel_setting_type;

/* Best made by one of the functions below. */
typedef struct edgereel_setting {
  const char* name;
  edgereel_setting_type type;
  union {
    const char* text;
    int64_t integer;
    uint64_t natural;
    double number;
    edgereel_array frames;
  } value;
} edgereel_setting;

/* A text, a choice, or the path of a video or picture. */
static inline edgereel_setting edgereel_text(const char* name, const char* text) {
  edgereel_setting setting = {name, EDGEREEL_SET_TEXT, {text}};
  return setting;
}

static inline edgereel_setting edgereel_int(const char* name, int64_t integer) {
  edgereel_setting setting = {name, EDGEREEL_SET_INT, {NULL}};
  setting.value.integer = integer;
  return setting;
}

/* For seeds of 2^63 and more. */
static inline edgereel_setting edgereel_uint(const char* name, uint64_t natural) {
  edgereel_setting setting = {name, EDGEREEL_SET_UINT, {NULL}};
  setting.value.natural = natural;
  return setting;
}

static inline edgereel_setting edgereel_float(const char* name, double number) {
  edgereel_setting setting = {name, EDGEREEL_SET_FLOAT, {NULL}};
  setting.value.number = number;
  return setting;
}

/* A video or picture: uint8 0..255 or float32 0..1, [F, H, W, 3] or [F, H, W]. */
static inline edgereel_setting edgereel_frames(const char* name, edgereel_array frames) {
  edgereel_setting setting = {name, EDGEREEL_SET_FRAMES, {NULL}};
  setting.value.frames = frames;
  return setting;
}

/* Calls */

/* Where a call is: when a stage starts (step 0) and after each call of a graph. */
typedef struct edgereel_progress {
  const char* stage;
  size_t stage_index, stages;
  int64_t step, steps;   /* finished steps of the present op, and all */
  int64_t chunk, chunks; /* index of the present chunk, and their number */
  double done;           /* share of the work, 0 to 1 */
  double seconds;        /* since the call began */
} edgereel_progress;

/* Both are called in the thread of edgereel_generate. Returning something else than 0 cancels. */
typedef int (*edgereel_step_callback)(const edgereel_progress* progress, void* user);

/* What a step of a sampling loop makes of the final result: x0, float32, as the graph has it. With
   the provider "trt" each is waited for. */
typedef int (*edgereel_preview_callback)(const edgereel_progress* progress,
                                         const edgereel_array* x0, void* user);

/* Noise to use instead of a draw; engines/README.md has the keys. */
typedef struct edgereel_noise {
  const char* key;
  edgereel_array array; /* float32 */
} edgereel_noise;

typedef struct edgereel_call_params {
  size_t size;      /* of this struct, set by _init */
  const char* mode; /* NULL: the first of the plan */
  const edgereel_setting* settings;
  size_t setting_count;
  const edgereel_noise* noise;
  size_t noise_count;
  edgereel_step_callback on_step; /* may be NULL, as may the next */
  edgereel_preview_callback on_preview;
  void* user; /* given to both */
} edgereel_call_params;

EDGEREEL_API void edgereel_call_params_init(edgereel_call_params* params);

typedef struct edgereel_video edgereel_video;

EDGEREEL_API edgereel_status edgereel_generate(edgereel_cascade* cascade,
                                               const edgereel_call_params* params,
                                               edgereel_video** video);

/* Stops the call in progress before its next step, from any thread or callback. */
EDGEREEL_API void edgereel_cancel(edgereel_cascade* cascade);

/* Videos */

/* uint8 [F, H, W, 3], sRGB 0..255; valid until the video is freed. */
EDGEREEL_API const uint8_t* edgereel_video_frames(const edgereel_video* video);
EDGEREEL_API const int64_t* edgereel_video_sizes(const edgereel_video* video); /* F, H, W, 3 */
EDGEREEL_API double edgereel_video_fps(const edgereel_video* video);

/* A sentence about a prompt that was too long, for example; NULL behind the last. */
EDGEREEL_API const char* edgereel_video_warning(const edgereel_video* video, size_t index);

/* An .mp4 as `edgereel generate` writes it, through the program ffmpeg, or the one that the
   variable IMAGEIO_FFMPEG_EXE names. */
EDGEREEL_API edgereel_status edgereel_video_save(const edgereel_video* video, const char* path);

EDGEREEL_API void edgereel_video_free(edgereel_video* video);

#ifdef __cplusplus
}
#endif

#endif
