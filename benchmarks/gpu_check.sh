#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one call: `bash benchmarks/gpu_check.sh` in a clone.
#
# Builds the kernels with nvcc, if it is here (KERNELS=WHEEL takes one that was built elsewhere),
# proves attention over frames against float64 and times it beside PyTorch's and a copy.
#
# Builds the cascades that come with Edgereel and their engines for this GPU, and of each: verifies
# every graph and a run on it, compares every mode with ONNX Runtime on the CPU, looks for memory that grows,
# cancels a call, and runs two in two threads; with TensorRT, and in an environment of its own with
# onnxruntime-gpu. Then one step of published networks beside PyTorch's. EXTRA=rtx (default) or EXTRA=trt,
# which with TensorRT's headers (TENSORRT_INCLUDE_DIR) also verifies the decoder with the kernel as a plugin.
# NETWORKS are works of peers.py. At the end a table: seconds per stage of one video by ONNX
# Runtime on the CPU and by TensorRT with loading the engines, their ratio, and the PSNR between the
# two. The last line of the output is one JSON object. ONLY=kernels ends after the kernels.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRA=${EXTRA:-rtx}
NETWORKS=${NETWORKS:-sd15 lavie-base}
CASCADES=(engines/shapes engines/lavie-shapes engines/emu-video-shapes engines/text2video-zero-shapes)
PROMPT=${PROMPT:-a small red circle moving right}
OUT=$(mktemp -d)
trap 'rm -rf "$OUT"' EXIT

[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet -e ".[ort,export,$EXTRA]" diffusers # a peer
if [ -n "${KERNELS:-}" ]; then
  .venv/bin/python -m pip install --quiet "$KERNELS"
elif command -v nvcc >/dev/null; then
  .venv/bin/python -m pip install --quiet ./kernels -C cmake.define.EDGEREEL_CUDA=ON \
    -C "cmake.define.CMAKE_CUDA_ARCHITECTURES=native" \
    -C "cmake.define.TENSORRT_INCLUDE_DIR=${TENSORRT_INCLUDE_DIR:-}"
fi
.venv/bin/edgereel doctor
proof=0
.venv/bin/python benchmarks/gpu_kernels.py || proof=$?
case $proof in
  0) .venv/bin/python benchmarks/bench_kernels.py --rounds 3 ;;
  2) echo "gpu_check: no kernels for this GPU: no nvcc, and no KERNELS=WHEEL with them" >&2 ;;
  *) echo "gpu_check: the kernels for GPUs are wrong here, see above" >&2; exit 1 ;;
esac
[ "${ONLY:-}" != kernels ] || exit $proof
[ -f engines/shapes/plan.json ] || .venv/bin/python export/build.py shapes
for system in lavie emu-video text2video-zero; do
  [ -f "engines/$system-shapes/plan.json" ] || .venv/bin/python export/build.py "$system" --size shapes
done
short=0
for cascade in "${CASCADES[@]}"; do
  .venv/bin/python export/build.py compile "$cascade" --backend trt
  .venv/bin/edgereel verify "$cascade" --backend trt --json "$OUT/verify.json" || short=1
done
.venv/bin/python benchmarks/gpu_conformance.py "${CASCADES[@]}" --backend trt || short=1
# onnxruntime-gpu is the same module as onnxruntime, so it has an environment of its own.
[ -x .venv-ort-gpu/bin/python ] || python3 -m venv .venv-ort-gpu
.venv-ort-gpu/bin/python -m pip install --quiet -e '.[ort-gpu]' psutil tqdm pillow
.venv-ort-gpu/bin/python benchmarks/gpu_conformance.py "${CASCADES[@]}" --backend ort-cuda || short=1
# shellcheck disable=SC2086 # a list of words
.venv/bin/python benchmarks/peers.py $NETWORKS --device cuda --rounds 3 --steps 10 \
  --skip ort-cuda --skip "plain export" || short=1 # which need onnxruntime-gpu beside torch
.venv/bin/edgereel verify engines/shapes --backend trt --json "$OUT/verify.json" || short=1
if [ "$EXTRA" = trt ] && .venv/bin/python -c 'import edgereel_kernels as k; exit(not k.PLUGIN)'; then
  .venv/bin/python export/build.py compile engines/shapes --backend trt --plugin decoder
  .venv/bin/edgereel verify engines/shapes --backend trt || true
  .venv/bin/python export/build.py compile engines/shapes --backend trt # the video: from definitions
fi
for backend in ort trt; do
  .venv/bin/edgereel generate engines/shapes -p "$PROMPT" -o "$OUT/$backend" \
    --backend "$backend" --metadata "$OUT/$backend.json"
done
.venv/bin/python benchmarks/gpu_compare.py "$OUT"
exit $short
