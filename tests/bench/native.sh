#!/usr/bin/env bash
# Native delta against xdelta3 and zstd --patch-from on the same images, in the same run.
#
#   tests/bench/native.sh OLD NEW        directories of NAME.img
#
# Prints one line a tool: bytes in total, CPU seconds (user + system), peak memory; then what applying ours takes.
# Needs xdelta3, zstd and GNU time; builds ours in release mode.
set -euo pipefail
old=$(realpath "${1:?directory of the old images}")
new=$(realpath "${2:?directory of the new images}")
root=$(cd "$(dirname "$0")/../.." && pwd)
cargo build --quiet --release --manifest-path "$root/Cargo.toml" --package relevo-cli
relevo=$root/target/release/relevo
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '%-34s %14s %9s %9s %9s\n' tool bytes 'CPU s' 'wall s' 'peak MB'

# measure LABEL FILES_OF_RESULT COMMAND...: runs the command, adds its cost to the label's sums.
measure() {
    local label=$1
    shift
    /usr/bin/time --output="$work/time" --format='%U %S %e %M' "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
    cat "$work/time" >>"$work/$label.times"
}
row() { # LABEL BYTES NAME
    awk -v bytes="$2" -v name="$3" '{ cpu += $1 + $2; wall += $3; if ($4 > peak) peak = $4 }
        END { printf "%-34s %14s %9.1f %9.1f %9.1f\n", name, bytes, cpu, wall, peak / 1000 }' "$work/$1.times"
}

measure ours "$relevo" --quiet ota diff "$old" "$new" --out "$work/ours.rvp"
row ours "$(stat -c %s "$work/ours.rvp")" 'relevo ota diff'

for tool in xdelta3 zstd; do
    total=0
    for image in "$new"/*.img; do
        name=$(basename "$image")
        base=$old/$name
        [ -f "$base" ] || base=/dev/null
        case $tool in
        xdelta3) measure xdelta3 xdelta3 -f -9 -B 1073741824 -e -s "$base" "$image" "$work/patch" ;;
        zstd) measure zstd zstd -q -f -19 --long=31 --patch-from="$base" "$image" -o "$work/patch" ;;
        esac
        total=$((total + $(stat -c %s "$work/patch")))
    done
    case $tool in
    xdelta3) row xdelta3 "$total" 'xdelta3 -9 -B 1073741824' ;;
    zstd) row zstd "$total" 'zstd -19 --patch-from' ;;
    esac
done

measure apply "$relevo" --quiet ota apply "$work/ours.rvp" --source "$old" --out "$work/made"
for image in "$new"/*.img; do cmp "$image" "$work/made/$(basename "$image")"; done
row apply "$(du -cb "$new"/*.img | tail -n 1 | cut -f 1)" 'relevo ota apply (bytes made)'
