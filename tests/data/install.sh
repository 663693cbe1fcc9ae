# shellcheck shell=bash
# Installs what is missing; sourced by tests/run.sh and deploy/quickstart.sh.

# Runs a command as root: directly, or by sudo without a prompt.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n "$@"
    else
        echo "needed as root: $*" >&2
        return 1
    fi
}

# install_debian COMMAND:PACKAGE..: installs each package whose command is not found.
install_debian() {
    local pair missing=()
    for pair in "$@"; do
        # /usr/sbin is not on every user's path, and mke2fs lives there.
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing: ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "this is no Debian; please install: ${missing[*]}" >&2
        return 1
    fi
    as_root apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# What tests/data/make_corpus.py calls.
install_corpus_tools() {
    local pip=pip3
    # Another Python in front of Debian's brings its own pip, or none.
    if ! python3 -m pip --version >/dev/null 2>&1; then pip=python3-without-pip; fi
    install_debian python3:python3 "$pip:python3-pip" npm:npm mke2fs:e2fsprogs mkfs.erofs:erofs-utils lz4:lz4 gzip:gzip
}
