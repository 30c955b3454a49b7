#!/usr/bin/env bash
# Many classes: Tiny ImageNet's, or a part of them, at 32 pixels (CIFAR-100's shape), ten of them at 64, and as a stream.
# From the repository's root: runs/many_classes.sh DATA [OUTPUT FOLDER]. DATA is Tiny ImageNet as `trajmatch --data`
# takes it. Finished runs are kept, and interrupted ones go on: interrupt it and start it again.
#
# BUDGET seconds of outer steps for each run (180), SEEDS of distillation (2), ORDERS of classes (2), WORKERS at once (one
# per core), EXPERTS (10), METHODS (all), STEPS of the stream's classes (10), PARTS: which of "32px-ipc1 32px-ipc10 64px
# stream" (all). With 100 classes a night on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${1:?the folder of Tiny ImageNet}
out=${2:-runs/many}
python=${PYTHON:-python3}
budget=${BUDGET:-180} seeds=${SEEDS:-2} orders=${ORDERS:-2} experts=${EXPERTS:-10} class_steps=${STEPS:-10}
workers=(${WORKERS:+--workers "$WORKERS"})
# Learned labels are what counts with a hundred classes (docs/results.md).
methods=(random dm mtt datm satm satm-bptt "satm --outer.labels learned" "satm-bptt --outer.labels learned")
[ -z "${METHODS:-}" ] || read -ra methods <<< "$METHODS"
source runs/parts.sh
choose_parts 32px-ipc1 32px-ipc10 64px stream
mkdir -p "$out"

# With 500 images of a class, mini-batches of 64: in twelve epochs of 256, 100 classes are learned to 9 %, and of 64 to 22.
# 12 epochs: segments of ten images per class start before epoch 8.
training=(--expert.epochs 12 --expert.batch 64)

# $1: a name, then flags of the images.
pool() {
    local name=$1
    "$python" -m trajmatch experts cifar10-small --data "$data" --experts "$experts" "${training[@]}" \
        --out "$out/experts-$name" "${@:2}"
    "$python" -m trajmatch experts cifar10-small --data "$data" --experts "$experts" "${training[@]}" \
        --out "$out/flat-$name" --flat "${@:2}"
}

# $1: a name, $2: that of its experts.
compare() {
    side_by_side "$out/$1" --preset cifar10-small "${training[@]}" --experts "$out/experts-$2" \
        --flat-experts "$out/flat-$2" --methods "${methods[@]}" "${@:3}"
}

stream() {
    "$python" -m trajmatch continual cifar10-small --data "$data" --images.size 32 --ipc 3 --class-steps "$class_steps" \
        --orders "$orders" --evaluation.epochs 300 --out "$out/stream-$class_steps-$1" "${@:2}"
}

small=(--images.size 32)
for part in $parts; do
    case $part in
    32px-ipc1)
        pool 32px "${small[@]}"
        compare "$part" 32px "${small[@]}" --ipc 1 --matching.inner-steps 30 --matching.batch 50 --matching.last-epoch 4 \
            --matching.expert-epochs 1 --outer.step-size 0.02 --outer.snapshots 3
        ;;
    # A step of 40 mini-batches of 100 of the 1,000 images: 20 of 500 are worth less in the same time (docs/results.md). Networks
    # take 1,200 steps in 300 epochs; on 100 images the usual 1,000 epochs are 1,000 steps.
    32px-ipc10)
        pool 32px "${small[@]}"
        compare "$part" 32px "${small[@]}" --ipc 10 --matching.inner-steps 40 --matching.batch 100 --matching.last-epoch 8 \
            --matching.expert-epochs 1 --outer.step-size 0.03 --outer.snapshots 2 --evaluation.epochs 300
        ;;
    64px)
        names=$("$python" -c "
import sys
from trajmatch.data.images import load
print(*load(sys.argv[1], size=4).classes[:10], sep='\n')" "$data")
        mapfile -t names <<< "$names"
        large=(--images.size 64 --images.classes "${names[@]}" --network.depth 4)
        pool 64px "${large[@]}"
        compare "$part" 64px "${large[@]}" --ipc 1 --matching.inner-steps 30 --matching.last-epoch 4 --matching.expert-epochs 4
        ;;
    # With an image rate for the few images of a step. The memory in the steps after it does harm here (docs/results.md).
    stream)
        briefly=(--expert.epochs 8 --expert.batch 64)
        matched=(--matching.inner-steps 20 --matching.last-epoch 4 --outer.lr-images 10)
        stream dm --method dm --steps 400
        stream mtt --method mtt --experts 3 "${briefly[@]}" "${matched[@]}" --steps 100
        stream satm-bptt --method satm-bptt --experts "$out/stream-$class_steps-mtt" "${briefly[@]}" "${matched[@]}" --steps 200
        stream mtt-both --method mtt --experts 3 "${briefly[@]}" "${matched[@]}" --steps 100 --replay both --replay-weight 0.25
        "$python" -m trajmatch compare "$out/stream-$class_steps"-* --out "$out/streams-$class_steps"
        ;;
    esac
done
