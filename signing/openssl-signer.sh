#!/bin/sh
# A signer for [[signer]] of relevo.toml: signs with a private key that openssl can use, here a file.
#
#   command = ["../signing/openssl-signer.sh", "/media/usb/root.pem"]
#
# It is meant to be read and changed: replace the one line with `openssl pkeyutl` by whatever talks to your token (openssl
# with a PKCS#11 provider takes `-inkey "pkcs11:object=relevo"`), or by `ssh vault openssl-signer.sh KEY` for another machine.
# relevo verifies what comes back, so the worst that this script can do is not to sign.
#
# The request is one line of JSON, the fields as signing/README.md has them; nothing in it needs unescaping here. An encrypted
# key's passphrase is asked for by openssl, on the terminal.
set -eu
key=${1:?"usage: openssl-signer.sh KEY"}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

IFS= read -r request
field() { printf '%s' "$request" | sed -n "s/.*\"$1\":\"\\([^\"]*\\)\".*/\\1/p"; }

printf 'Signing %s\n' "$(field what)" >&2
field message | base64 -d >"$work/message"
openssl pkeyutl -sign -rawin -inkey "$key" -in "$work/message" -out "$work/signature" >&2
printf '{"signature":"%s"}\n' "$(base64 <"$work/signature" | tr -d '\n')"
