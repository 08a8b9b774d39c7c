#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one call: `bash benchmarks/gpu_check.sh` in a clone.
#
# Builds the shapes cascade and its engines for this GPU, verifies every graph on it, makes the same
# video with ONNX Runtime on the CPU and with TensorRT, and prints a table: seconds per stage of
# both with loading the engines, their ratio, and the PSNR between the two videos. EXTRA=rtx (default) or EXTRA=trt.
# The last line of the output is one JSON object.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRA=${EXTRA:-rtx}
PROMPT=${PROMPT:-a small red circle moving right}
OUT=$(mktemp -d)
trap 'rm -rf "$OUT"' EXIT

[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet -e ".[ort,export,$EXTRA]"
.venv/bin/edgereel doctor
[ -f engines/shapes/plan.json ] || .venv/bin/python export/build.py shapes
.venv/bin/python export/build.py compile engines/shapes --backend trt
.venv/bin/edgereel verify engines/shapes --backend trt --json "$OUT/verify.json" || true
for backend in ort trt; do
  .venv/bin/edgereel generate engines/shapes -p "$PROMPT" -o "$OUT/$backend" \
    --backend "$backend" --metadata "$OUT/$backend.json"
done
.venv/bin/python benchmarks/gpu_compare.py "$OUT"
