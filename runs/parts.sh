# For the scripts beside it, to be sourced. choose_parts NAME...: `parts` becomes those of PARTS, or all of the names;
# one that is none of them ends the script before the first part is run, which can take hours.
choose_parts() {
    local known="$*" part
    parts=${PARTS:-$known}
    for part in $parts; do
        if [[ " $known " != *" $part "* ]]; then
            echo "PARTS: '$part' is none of ${known// /, }" >&2
            exit 2
        fi
    done
}

# side_by_side FOLDER FLAG...: a comparison of methods, by what the script has set at its head. The table of before,
# FOLDER.txt, stays until there is another.
side_by_side() {
    "$python" -m benchmarks.compare_methods --data "$data" --out "$1" --budget "$budget" --seeds "$seeds" \
        "${workers[@]}" "${@:2}" | tee "$1.txt.new"
    mv "$1.txt.new" "$1.txt"
}
