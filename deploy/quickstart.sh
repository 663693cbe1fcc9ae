#!/usr/bin/env bash
# Takes the whole way once, on this machine: two builds become a signed delta, go through a server, update a phone.
#
#   deploy/quickstart.sh [OLD NEW] [--once] [--port N] [--work DIR] [--profile NAME]
#
# OLD NEW        two directories of NAME.img; without them, two builds of a pretend device are made out of real arm64
#                software
# --once         end after the table, instead of leaving the server running until Ctrl-C
# --port N       the server's port (default 8787)
# --work DIR     where everything is made (default target/quickstart); what is there from an earlier run is replaced
# --profile NAME cargo's profile (default quick: optimized, linked fast)
#
# It runs on Debian with a Rust toolchain; what else is missing is installed (as root, or by sudo without a prompt).
set -euo pipefail

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }
wrong() { printf 'quickstart: %s\n\n' "$*" >&2; usage >&2; exit 2; }

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
once=false port=8787 work=$project/target/quickstart profile=quick images=()
while [ $# -gt 0 ]; do
    case $1 in
        --once) once=true ;;
        --port) port=${2:?--port needs a number}; shift ;;
        --work) work=${2:?--work needs a directory}; shift ;;
        --profile) profile=${2:?--profile needs a name}; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) wrong "there is no option $1" ;;
        *) images+=("$1") ;;
    esac
    shift
done
case ${#images[@]} in 0 | 2) ;; *) wrong "give two directories, OLD and NEW, or none" ;; esac
if ! [[ $port =~ ^[0-9]{1,5}$ ]] || [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then wrong "--port is $port; it must be 1 to 65535"; fi
for directory in "${images[@]}"; do
    compgen -G "$directory/*.img" >/dev/null || fail "$directory holds no NAME.img"
done

# shellcheck source=tests/data/install.sh
source "$project/tests/data/install.sh"

number=0 began=$SECONDS
step() { number=$((number + 1)); printf '\n\033[1m%d. %s\033[0m\n' "$number" "$*"; }
now_ms() { date +%s%3N; }
bytes_of() { stat --format=%s "$@" | awk '{ total += $1 } END { printf "%d", total }'; }
megabytes() { awk -v bytes="$1" 'BEGIN { printf "%.2f MB", bytes / 1000000 }'; }
seconds() { awk -v ms="$1" 'BEGIN { printf "%.1f s", ms / 1000 }'; }
# The value of one key in a line of JSON.
json() { python3 -c 'import json,sys; v = json.load(sys.stdin)
for k in sys.argv[1].split("."): v = v[int(k)] if isinstance(v, list) else v[k]
print(v)' "$1"; }

children=()
# shellcheck disable=SC2317,SC2329 # called by the trap
stop() {
    [ ${#children[@]} -gt 0 ] || return 0
    kill "${children[@]}" 2>/dev/null || true
    wait "${children[@]}" 2>/dev/null || true
}
trap stop EXIT
trap 'exit 130' INT TERM

if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    fail "port $port is taken; choose another one with --port"
fi

step "Tools"
command -v cargo >/dev/null || fail "there is no cargo; install a Rust toolchain first"
install_debian cc:build-essential python3:python3
[ ${#images[@]} -eq 2 ] || install_corpus_tools
echo "everything is there"

step "Building Relevo (profile $profile)"
(cd "$project" && cargo build --locked --profile "$profile" --bin relevo --bin relevo-server --bin relevo-updater --bin count-wire)
target=$(cd "$project" && cargo metadata --format-version 1 --no-deps --locked | json target_directory)
if [ "$profile" = dev ]; then PATH=$target/debug:$PATH; else PATH=$target/$profile:$PATH; fi
built=$((SECONDS - began))

step "Two builds"
rm -rf "$work/phone" "$work/maintainer" "$work/server.db"*
mkdir -p "$work"
work=$(cd "$work" && pwd)
if [ ${#images[@]} -eq 0 ]; then
    python3 "$project/tests/data/make_corpus.py" "$work/corpus" --builds 1,2
    images=("$work/corpus/v1" "$work/corpus/v2")
fi
old=$(cd "${images[0]}" && pwd) new=$(cd "${images[1]}" && pwd)
echo "old: $old ($(megabytes "$(bytes_of "$old"/*.img)"))"
echo "new: $new ($(megabytes "$(bytes_of "$new"/*.img)"))"

step "A repository with its keys, and a device"
maintainer=$work/maintainer
# A passphrase for this trial alone; it stays in the work directory.
(umask 077 && head -c 18 /dev/urandom | base64 >"$work/passphrase")
relevo --quiet init "$maintainer" --passphrase-file "$work/passphrase"
cd "$maintainer"
relevo --quiet device add sample --vendor pretend --kind native --name "Pretend phone" --passphrase-file "$work/passphrase"

step "Importing both builds (each becomes a full package)"
at=$(date +%s)
started=$(now_ms)
relevo --quiet import "$old" --device sample --build 1 --version "1.0" --timestamp $((at - 86400)) --level 9
relevo --quiet import "$new" --device sample --build 2 --version "2.0" --timestamp $((at - 3600)) --level 9
full_ms=$(($(now_ms) - started))

step "The delta"
started=$(now_ms)
relevo --quiet delta sample
delta_ms=$(($(now_ms) - started))

step "Signing and publishing"
relevo publish --passphrase-file "$work/passphrase"
relevo repo check
full=$(bytes_of repo/targets/pretend/sample/stable/*.sample-2-full.rvp)
delta=$(bytes_of repo/targets/pretend/sample/stable/*.sample-1-to-2.rvp)

step "The server"
relevo-server serve --listen "127.0.0.1:$port" --repository "$maintainer" --database "$work/server.db" --log warn &
server=$!
children+=("$server")
ready=false
for _ in $(seq 200); do
    kill -0 "$server" 2>/dev/null || fail "the server ended; is port $port taken? choose another one with --port"
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then ready=true; break; fi
    sleep 0.05
done
$ready || fail "the server does not listen on port $port"
echo "http://127.0.0.1:$port"

step "A phone with the old build in slot a"
# Between the phone and the server stands a proxy that counts what passes.
rm -f "$work/wire"
count-wire "$work/wire" "127.0.0.1:$port" &
children+=("$!")
for _ in $(seq 200); do [ -s "$work/wire" ] && break; sleep 0.05; done
read -r wire _ <"$work/wire"
# Bytes that passed, both ways, heads and bodies.
wire_bytes() { sleep 0.2; awk '{ printf "%d", $2 + $3 }' "$work/wire"; }
phone=$work/phone
mkdir -p "$phone/slots/a" "$phone/slots/b"
cp "$old"/*.img "$phone/slots/a"
cp "$maintainer/repo/metadata/1.root.json" "$phone/root.json"
cat >"$phone/updater.toml" <<EOF
mirrors = ["http://$wire/repo/"]
root = "root.json"
vendor = "pretend"
codename = "sample"
state_dir = "state"

[block]
slot_a = "slots/a"
slot_b = "slots/b"
build_file = "slots/{slot}/build.json"
boot_control = "boot/control"
EOF
updater() { relevo-updater --config "$phone/updater.toml" "$@"; }
updater factory --build 1 --timestamp $((at - 86400))

step "It polls, downloads, installs"
started=$(now_ms)
updater check
updater download
updater install
update_ms=$(($(now_ms) - started))
update_bytes=$(wire_bytes)

step "It boots the other slot and confirms"
booted=$(updater pretend-boot)
echo "booted slot $booted"
updater confirm
[ "$booted" = b ] || fail "the phone booted its old slot"
for image in "$new"/*.img; do cmp "$image" "$phone/slots/b/${image##*/}"; done
echo "every partition is byte for byte the one of the new build"

step "It polls again, and finds nothing new"
updater check
poll_bytes=$(($(wire_bytes) - update_bytes))
# From here on the phone asks the server itself.
sed -i "s#http://$wire/#http://127.0.0.1:$port/#" "$phone/updater.toml"

printf '\n\033[1mDone in %d s (%d s of them building)\033[0m\n\n' $((SECONDS - began)) "$built"
row() { printf '  %-44s %14s\n' "$1" "$2"; }
row "images of the new build" "$(megabytes "$(bytes_of "$new"/*.img)")"
row "full package" "$(megabytes "$full")"
row "delta package" "$(megabytes "$delta")"
row "delta / full" "$(awk -v delta="$delta" -v full="$full" 'BEGIN { printf "%.1f %%", 100 * delta / full }')"
row "time for both full packages" "$(seconds "$full_ms")"
row "time for the delta" "$(seconds "$delta_ms")"
row "time on the phone: poll, download, install" "$(seconds "$update_ms")"
row "on the wire: poll and update" "$(megabytes "$update_bytes")"
row "on the wire: a poll that finds nothing" "$poll_bytes B"
echo

if $once; then exit 0; fi
echo "The server goes on at http://127.0.0.1:$port; Ctrl-C ends it. The phone is in $phone:"
echo "  $target/${profile/#dev/debug}/relevo-updater --config $phone/updater.toml status"
wait "$server"
