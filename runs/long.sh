#!/usr/bin/env bash
# Long runs: what sharpness, concurrency, flat experts and truncation are worth at 10,000 outer steps, or at 40 minutes of
# one core where a method takes fewer steps in that time. CIFAR-10 at 16 pixels, from the experts of runs/compare_methods.sh;
# and 3,000 steps of the published network at 32 pixels.
# From the repository's root: runs/long.sh DATA [OUTPUT FOLDER]. Finished runs are kept, and an interrupted one goes on
# from its checkpoint: interrupt it and start it again.
#
# BUDGET seconds of outer steps for each run (2400), STEPS at most (10000), SEEDS of distillation (2), WORKERS at once
# (one per core), METHODS (all), PARTS: which of "16px-ipc1 16px-ipc10 published" (all). Two nights on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${1:?the folder of CIFAR-10}
out=${2:-runs/compare}
python=${PYTHON:-python3}
budget=${BUDGET:-2400} steps=${STEPS:-10000} seeds=${SEEDS:-2}
workers=(${WORKERS:+--workers "$WORKERS"})
methods=(mtt satm datm "satm --matching.radius 1" "satm --matching.radius 3" satm-fi at-bptt satm-contra contra satm-bptt)
# METHODS: names of methods without flags, separated by spaces.
[ -z "${METHODS:-}" ] || read -ra methods <<< "$METHODS"
source runs/parts.sh
choose_parts 16px-ipc1 16px-ipc10 published
mkdir -p "$out"

experts() {
    "$python" -m trajmatch experts cifar10-16px --data "$data" --out "$out/$1" --expert.epochs 22 "${@:2}"
}

compare() {
    side_by_side "$out/long-$1" --most-steps "$steps" --preset cifar10-16px --expert.epochs 22 --outer.snapshots 10 \
        --experts "$out/experts-cifar10-16px" --flat-experts "$out/flat-cifar10-16px" --methods "${methods[@]}" "${@:2}"
}

for part in $parts; do
    if [[ $part == 16px-* ]]; then
        experts experts-cifar10-16px
        experts flat-cifar10-16px --flat
    fi
    case $part in
    # As runs/compare_methods.sh has them, for 180 s.
    16px-ipc1) compare "$part" --ipc 1 --matching.last-epoch 4 ;;
    16px-ipc10)
        compare "$part" --ipc 10 --matching.inner-steps 30 --matching.last-epoch 10 --matching.batch 25 --outer.lr-images 1000 \
            --outer.step-size 0.03
        ;;
    # The field's network at 32 pixels, scored by the published recipe; four hours on two cores.
    published)
        "$python" -m trajmatch experts cifar10-ipc1-cpu --data "$data" --out "$out/experts-published"
        side_by_side "$out/long-published" --budget 100000 --most-steps 3000 --preset cifar10-ipc1-cpu --seeds 1 --ipc 1 \
            --experts "$out/experts-published" --outer.snapshots 6 --networks 5 --methods mtt satm satm-bptt
        ;;
    esac
done
