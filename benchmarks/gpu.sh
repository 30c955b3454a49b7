#!/usr/bin/env bash
# Everything that needs a GPU, in one command under 10 minutes: GPU tests, then both benchmarks.
# From the repository's root, with torch for CUDA installed: benchmarks/gpu.sh [OUTPUT FOLDER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-${OUT:-runs/gpu}}
mkdir -p "$out"
python=${PYTHON:-python3}
"$python" -c 'import trajmatch' 2>"$out/import.log" || "$python" -m pip install -q -e '.[test]'
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/gpu.txt"
export PYTHONUNBUFFERED=1
timeout 120 "$python" -m pytest -q -m gpu 2>&1 | tee "$out/tests.txt" || echo "GPU tests failed" | tee -a "$out/tests.txt"
timeout 200 "$python" -m benchmarks.outer_step --device cuda --batch 10 --json "$out/outer_step_10.json" \
    --plot "$out/outer_step_10.png" 2>&1 | tee "$out/outer_step_10.txt"
timeout 150 "$python" -m benchmarks.outer_step --device cuda --batch 500 --json "$out/outer_step_500.json" \
    2>&1 | tee "$out/outer_step_500.txt"
timeout 100 "$python" -m benchmarks.experts --device cuda --quick --json "$out/experts.json" 2>&1 | tee "$out/experts.txt"
