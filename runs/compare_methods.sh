#!/usr/bin/env bash
# Random images and all methods that match trajectories, from the same experts, at equal wall-clock and at equal outer
# steps: tables, and accuracy against seconds.
# From the repository's root: runs/compare_methods.sh DATA [OUTPUT FOLDER]. DATA is CIFAR-10 as `trajmatch --data`
# takes it. Finished runs are kept: interrupt it and start it again.
#
# BUDGET seconds of outer steps for each run (180), SEEDS of distillation (3), WORKERS at once (one per core), PARTS:
# which of "16px-ipc1 16px-ipc10 small-ipc1" (all).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${1:?the folder of CIFAR-10}
out=${2:-runs/compare}
python=${PYTHON:-python3}
budget=${BUDGET:-180} seeds=${SEEDS:-3}
workers=(${WORKERS:+--workers "$WORKERS"})
source runs/parts.sh
choose_parts 16px-ipc1 16px-ipc10 small-ipc1
mkdir -p "$out"

# 22 epochs: segments of ten images per class start before epoch 20 and take two.
experts() {
    "$python" -m trajmatch experts "$1" --data "$data" --out "$out/experts-$1" --expert.epochs "$2" "${@:3}"
}

for part in $parts; do
    case $part in
    16px-*)
        experts cifar10-16px 22
        "$python" -m trajmatch experts cifar10-16px --data "$data" --out "$out/flat-cifar10-16px" --expert.epochs 22 --flat
        # TESLA with the labels of its method, and with those of its commands for CIFAR.
        pool=(--preset cifar10-16px --expert.epochs 22 --experts "$out/experts-cifar10-16px"
            --flat-experts "$out/flat-cifar10-16px" --methods random mtt ftd tesla "tesla --outer.labels hard" datm
            satm satm-fi satm-da contra satm-contra satm-bptt)
        ;;
    esac
    case $part in
    # T+ and the image learning rates are chosen on validation images (docs/LOG.md).
    16px-ipc1) side_by_side "$out/$part" "${pool[@]}" --ipc 1 --matching.last-epoch 4 ;;
    # T as published for ten images per class (SATM); the rest is chosen on training images (docs/LOG.md).
    16px-ipc10)
        side_by_side "$out/$part" "${pool[@]}" --ipc 10 --matching.inner-steps 30 --matching.last-epoch 10 \
            --matching.batch 25 --outer.lr-images 1000 --outer.step-size 0.03 --outer.snapshots 2
        ;;
    small-ipc1)
        # Segments start before epoch 4 and take two.
        experts cifar10-small 5
        side_by_side "$out/$part" --preset cifar10-small --expert.epochs 5 --experts "$out/experts-cifar10-small" \
            --ipc 1 --matching.last-epoch 4 --methods random mtt tesla satm satm-contra satm-bptt
        ;;
    esac
done
