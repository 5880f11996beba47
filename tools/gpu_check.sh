#!/usr/bin/env bash
# Check and measure the project on a GPU, in under nine minutes: tests, then epochs beside the plain way, then a table.
# Reports go to the folder $OUT (gpu_check). CUDA_TESTS=cpu rehearses it on a machine without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."

OUT="${OUT:-gpu_check}"
DEVICE="${CUDA_TESTS:-cuda}"
SIZE=()
[ "$DEVICE" = cpu ] && SIZE=(--images 512)
mkdir -p "$OUT"
export CUDA_TESTS="$DEVICE"

python - "$DEVICE" <<'CHECK' || exit 2
import importlib.util, sys
missing = [name for name in "torch torchvision yacs tqdm tensorboard pytest".split() if not importlib.util.find_spec(name)]
if missing:
    sys.exit(f"error: {', '.join(missing)} missing; type pip install -r requirements-dev.txt")
import torch
if sys.argv[1] != "cpu" and not torch.cuda.is_available():
    sys.exit("error: there is no GPU; CUDA_TESTS=cpu tools/gpu_check.sh rehearses without one")
name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}")
CHECK

step() { # name, seconds at most, command
  local name="$1" limit="$2" started=$SECONDS
  shift 2
  timeout --kill-after=5 "$limit" "$@" >"$OUT/$name.txt" 2>&1
  local status=$?
  TABLE+="$(printf '%-28s %5s s  %s' "$name" "$((SECONDS - started))" "$([ $status = 0 ] && echo passed || echo "status $status, see $OUT/$name.txt")")"$'\n'
}

TABLE=""
step tests 240 python -m pytest -m cuda tests/engine/test_gpu.py tests/dataset/test_augment.py --durations=10
step epoch_resnet56_resnet20 130 python tools/benchmark --device "$DEVICE" --part epoch --repeats 1 "${SIZE[@]}"
step epoch_resnet32x4_resnet8x4 150 python tools/benchmark --device "$DEVICE" --part epoch --repeats 1 "${SIZE[@]}" \
  --teacher resnet32x4 --student resnet8x4
tail -n 40 "$OUT"/epoch_*.txt
grep -E "^(FAILED|ERROR)" "$OUT/tests.txt" || true
printf '%s' "$TABLE" | tee "$OUT/table.txt"
! grep -q status "$OUT/table.txt"
