#!/usr/bin/env bash
# A/B payloads between directories of images: size, time and memory, and whether they apply.
#
#   tests/bench/ab.sh OLD NEW [MINOR...]        directories of NAME.img; minor versions, 9 if none is given
#
# Prints one line a minor version: bytes of the unsigned payload, CPU seconds (user + system), peak memory of making it; then
# the same of applying it, after the images were compared. Needs GNU time; builds ours in release mode.
set -euo pipefail
old=$(realpath "${1:?directory of the old images}")
new=$(realpath "${2:?directory of the new images}")
shift 2
[ $# -gt 0 ] || set -- 9
root=$(cd "$(dirname "$0")/../.." && pwd)
cargo build --quiet --release --manifest-path "$root/Cargo.toml" --package relevo-cli
relevo=${CARGO_TARGET_DIR:-$root/target}/release/relevo
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '%-20s %14s %9s %9s %9s\n' what bytes 'CPU s' 'wall s' 'peak MB'

row() { # NAME BYTES COMMAND...
    local name=$1 bytes=$2
    shift 2
    /usr/bin/time --output="$work/time" --format='%U %S %e %M' "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
    [ "$bytes" ] || bytes=$(stat -c %s "$work/payload.bin")
    awk -v name="$name" -v bytes="$bytes" \
        '{ printf "%-20s %14s %9.1f %9.1f %9.1f\n", name, bytes, $1 + $2, $3, $4 / 1000 }' "$work/time"
}

for minor; do
    row "diff, minor $minor" '' "$relevo" --quiet ota diff "$old" "$new" --out "$work/payload.bin" --unsigned \
        --minor "$minor" --device bench
    made=$(du -cb "$new"/*.img | tail -n 1 | cut -f 1)
    row "apply, minor $minor" "$made" "$relevo" --quiet ota apply "$work/payload.bin" --source "$old" --out "$work/made"
    for image in "$new"/*.img; do cmp "$image" "$work/made/$(basename "$image")"; done
    rm -rf "$work/made" "$work"/payload.*
done
