#!/usr/bin/env bash
# The commands behind docs/diagnose.md: what matching does to CIFAR-10, in ten diagnoses.
# From the repository's root: runs/diagnose.sh DATA [COMPARISON [OUTPUT]]. DATA is CIFAR-10 as `trajmatch --data` takes it,
# COMPARISON the folder of runs/compare_methods.sh, whose runs of one image per class are looked at.
# What is done is kept: interrupt it and start it again.
#
# PARTS: which of "16px ipc small cost" (all). Forty minutes on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${1:?the folder of CIFAR-10}
compare=${2:-runs/compare}
out=${3:-runs/diagnose}
trajmatch="${PYTHON:-python3} -m trajmatch"
source runs/parts.sh
choose_parts 16px ipc small cost
mkdir -p "$out"

# distil NAME PRESET STEPS [flags]
distil() {
    [ -f "$out/$1/distilled.safetensors" ] ||
        $trajmatch distill "$2" --data "$data" --steps "$3" --out "$out/$1" --resume --outer.threads 1 "${@:4}"
}

# look FOLDER NAME [flags]
look() {
    [ -f "$1/$2.json" ] || $trajmatch diagnose "$2" --out "$1" "${@:3}"
}

run() {
    echo "$compare/16px-ipc1/$1-ipc1-seed0"
}

for part in $parts; do
    case $part in
    16px)
        look "$out" interference --run "$(run satm)" "$(run contra)"
        look "$out" forgetting --run "$(run mtt)" "$(run contra)" "$(run satm)" --starts 6
        look "$out" accumulated-error --run "$(run mtt)" "$(run ftd)" "$(run satm)" "$(run contra)" --panel 5
        look "$out" hypergradient-norm --run "$(run mtt)" "$(run satm)" --points 6
        look "$out" landscape --run "$(run mtt)" "$(run satm)"
        look "$out" learning-rate --run "$(run satm)" --steps 300
        look "$out" truncation --run "$(run satm)" --steps 300
        look "$out" nearest --run "$(run satm)"
        ;;
    ipc)
        more=(--experts "$compare/experts-cifar10-16px" --expert.epochs 22 --method mtt --matching.last-epoch 20
            --matching.inner-steps 30 --outer.lr-images 300)
        distil ipc10 cifar10-16px 60 --ipc 10 "${more[@]}"
        distil ipc50 cifar10-16px 20 --ipc 50 "${more[@]}"
        look "$out" correlation --run "$(run mtt)" "$out/ipc10" "$out/ipc50"
        ;;
    small)
        distil small cifar10-small 100 --experts 4 --method mtt --matching.last-epoch 4
        look "$out/32px" correlation --run "$out/small"
        ;;
    cost)
        distil wide cifar10-small 1 --experts 1 --expert.epochs 1 --network.width 128 --method mtt --matching.last-epoch 1 \
            --matching.expert-epochs 1
        look "$out" cost --run "$out/wide" --rounds 1
        ;;
    esac
done
