#!/usr/bin/env bash
# Passes everything: tools, formatting, lints, documentation, builds, tests, samples, fuzz corpora.
#
#   ./tests/run.sh          everything, as CI does
#   ./tests/run.sh STEP..   only the steps named (see `steps` below)
#
# RELEVO_TUF_CONFORMANCE names a checkout of github.com/theupdateframework/tuf-conformance, 2.4.0; with it, the step
# `conformance` runs that suite as well. It is on no package registry, which is all that tests may fetch from.
#
# It runs on Debian with a Rust toolchain; what else it needs is installed when it is missing (as root, or by sudo
# without a prompt). It exits non-zero when a step fails, after it has run the others.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

steps=(tools shell format lint features documentation build corpus tests doctests conformance quickstart fuzz licences)
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto} CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
# Nothing here may wait for a person.
export DEBIAN_FRONTEND=noninteractive PIP_NO_INPUT=1 GIT_TERMINAL_PROMPT=0

# shellcheck source=tests/data/install.sh
source tests/data/install.sh

# Tests flush what they write, thousands of times: in memory, where there is room, that costs nothing. (What a flush is
# for, a cut of power, no test here can do to a real disk anyway; the crates' own tests cut between the calls.)
if [ "$(df --output=avail --block-size=1M /dev/shm 2>/dev/null | tail -n 1)" -gt 4096 ] 2>/dev/null; then
    TMPDIR=$(mktemp -d /dev/shm/relevo.XXXXXX)
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
fi

# A Python with what tests/conformance pins, made anew when the pins change.
python_for_conformance() {
    local pins=tests/conformance/requirements.txt
    if cmp -s "$pins" target/tuf/pins; then return; fi
    rm -rf target/tuf
    # Debian ships venv without what it needs.
    if ! python3 -c 'import ensurepip' 2>/dev/null; then install_debian python3-without-venv:python3-venv; fi
    python3 -m venv target/tuf
    target/tuf/bin/pip install --quiet --disable-pip-version-check --requirement "$pins"
    cp "$pins" target/tuf/pins
}

step_tools() {
    install_debian cc:build-essential shellcheck:shellcheck
    install_corpus_tools
    if ! cargo nextest --version >/dev/null 2>&1; then
        # Without nextest the tests run under `cargo test`, so a failure here is no failure of the run.
        cargo install cargo-nextest --locked || echo "cargo-nextest could not be installed; falling back to cargo test"
    fi
    cargo fetch --locked
}

step_shell() {
    local script
    while IFS= read -r script; do
        bash -n "$script"
        if command -v shellcheck >/dev/null; then shellcheck --external-sources "$script"; fi
        echo "ok: $script"
    done < <(find . \( -name target -o -name .git \) -prune -o -type f \( -name '*.sh' -o -path ./.ci/run \) -print | sort)
}

step_format() { cargo fmt --all --check; }

step_lint() {
    cargo clippy --locked --workspace --all-targets -- -D warnings
    cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
}

# A feature only adds: each crate that has one is also built alone, without it.
step_features() {
    local crate
    for crate in relevo-types relevo-format relevo-meta relevo-updater; do
        cargo clippy --locked --package "$crate" -- -D warnings
    done
}

step_documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet; }

step_build() { cargo build --locked --workspace --bins; }

# The images that the end-to-end tests use.
step_corpus() { python3 tests/data/make_corpus.py target/corpus; }

step_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --locked --workspace
    else
        cargo test --locked --workspace --bins --lib --tests
    fi
}

step_doctests() { cargo test --locked --workspace --doc; }

# The verifier against python-tuf, both ways, and against the TUF conformance suite where it is there.
step_conformance() {
    install_debian faketime:faketime
    python_for_conformance
    cargo build --locked --bin relevo --bin relevo-updater --bin tuf-client
    target/tuf/bin/python tests/conformance/interop.py target/debug
    if [ -z "${RELEVO_TUF_CONFORMANCE:-}" ]; then
        echo "RELEVO_TUF_CONFORMANCE is not set; the TUF conformance suite was not run"
        return
    fi
    local client=$PWD/target/debug/tuf-client report=$PWD/target/tuf/conformance.xml
    # The suite would read failures that it may expect from such a file; there are none.
    [ ! -e "$client.xfails" ]
    (cd "$RELEVO_TUF_CONFORMANCE" && PATH="$OLDPWD/target/tuf/bin:$PATH" \
        pytest -q -p no:cacheprovider --junit-xml="$report" tuf_conformance --entrypoint "$client")
    # A suite that skips its tests has not passed.
    grep -q 'errors="0" failures="0" skipped="0"' "$report"
}

# The sample that people meet first, on the corpus and a port that nobody has.
step_quickstart() {
    local port
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    ./deploy/quickstart.sh target/corpus/v1 target/corpus/v2 --once --profile dev --port "$port" --work target/quickstart-test
}

# The fuzz targets build on stable, and each one replays its corpus as a test.
step_fuzz() {
    if [ -f fuzz/Cargo.toml ]; then CARGO_TARGET_DIR=target/fuzz cargo test --locked --manifest-path fuzz/Cargo.toml; fi
}

step_licences() {
    if cargo deny --version >/dev/null 2>&1; then
        cargo deny check licenses bans sources
    else
        echo "cargo-deny is not installed; deny.toml is not checked here"
    fi
}

wanted=("$@")
[ $# -gt 0 ] || wanted=("${steps[@]}")
failed=()
for step in "${wanted[@]}"; do
    if ! declare -F "step_$step" >/dev/null; then
        echo "no step is called '$step'; there are: ${steps[*]}" >&2
        exit 2
    fi
    echo
    echo "=== $step"
    began=$SECONDS
    # A step runs in its own shell: `set -e` does not hold inside the condition of an `if`.
    set +e
    (set -e; "step_$step")
    status=$?
    set -e
    echo "=== $step: $([ $status -eq 0 ] && echo ok || echo "FAILED ($status)"), $((SECONDS - began)) s"
    if [ $status -ne 0 ]; then
        failed+=("$step")
        # Nothing after these can say anything useful.
        case $step in tools | build | corpus) break ;; esac
    fi
done

echo
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]} (after $SECONDS s)"
    exit 1
fi
echo "all steps passed in $SECONDS s"
