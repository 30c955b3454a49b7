#!/usr/bin/env bash
# All numbers that need a GPU, in one command under 10 minutes and without a network: GPU tests; an outer step beside
# the eager `unrolled` and `tesla`, with its peak memory, at batch 10, 100 and 500; K = 4 segments one by one and
# together; images per second of training experts. Graphs of segments on streams are not in the package and left out.
# From the repository's root, with torch for CUDA installed: benchmarks/gpu.sh [OUTPUT FOLDER]
# Where there is no GPU, DEVICE=cpu tries the same commands on tiny sizes, as slow as it may be; its numbers say nothing.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-${OUT:-runs/gpu}}
mkdir -p "$out"
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
failed=0

# measured NAME SECONDS MODULE FLAGS...: one benchmark into NAME.txt and NAME.json; one that fails stops no other.
measured() {
    local name=$1 limit=$(($2 * patience))
    shift 2
    if ! timeout "$limit" "$python" -m "$@" --device "$device" --json "$out/$name.json" 2>&1 | tee "$out/$name.txt"; then
        echo "$name failed, or took more than $limit s" | tee -a "$out/$name.txt"
        failed=1
    fi
}

tiny=()
tiny_steps=()
patience=1
if [ "$device" = cuda ]; then
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/gpu.txt"
    timeout 90 "$python" -m pytest -q -m gpu 2>&1 | tee "$out/tests.txt" || { echo "GPU tests failed" | tee -a "$out/tests.txt"; failed=1; }
else
    tiny=(--width 4)
    tiny_steps=(--inner-steps 2)
    patience=10
fi
measured outer_step_10 110 benchmarks.outer_step --batch 10 --whole --few "${tiny[@]}" "${tiny_steps[@]}"
measured outer_step_100 110 benchmarks.outer_step --batch 100 --whole --few "${tiny[@]}" "${tiny_steps[@]}"
measured outer_step_500 120 benchmarks.outer_step --batch 500 --whole --few "${tiny[@]}" "${tiny_steps[@]}"
measured segments 60 benchmarks.segments --segments 4 "${tiny[@]}" "${tiny_steps[@]}"
measured experts 90 benchmarks.experts --quick --processes 1 "${tiny[@]}"
exit "$failed"
