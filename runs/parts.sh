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
