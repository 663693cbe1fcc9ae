"""python-tuf and Relevo read each other's repositories.

    interop.py BINARIES

BINARIES is the directory of relevo, relevo-updater and tuf-client. Everything happens in a directory of its own and on
127.0.0.1. It ends with 0 if each side believes what the other signed, and disbelieves what was changed on the way.
"""

import contextlib
import functools
import http.server
import pathlib
import subprocess
import sys
import tempfile
import threading
from datetime import datetime, timedelta, timezone

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer
from tuf.ngclient import Updater

NOW = datetime.now(timezone.utc).replace(microsecond=0)
DEVICE = "pretend/sample"


class Files(http.server.SimpleHTTPRequestHandler):
    """A directory, in silence."""

    def log_message(self, format, *arguments):
        pass


@contextlib.contextmanager
def served(directory):
    handler = functools.partial(Files, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


class Programs:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory).resolve()

    def run(self, name, *arguments, cwd=None):
        words = [str(self.directory / name), *map(str, arguments)]
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
        return done.returncode, done.stdout, done.stderr

    def must(self, name, *arguments, cwd=None):
        status, out, err = self.run(name, *arguments, cwd=cwd)
        assert status == 0, f"{name} {' '.join(map(str, arguments))} ended with {status}:\n{out}{err}"
        return out

    def tuf_client(self, work, root, url, target):
        """What our verifier makes of a repository: the target's bytes, or none and why."""
        metadata, targets = work / "metadata", work / "targets"
        metadata.mkdir(parents=True)
        targets.mkdir()
        self.must("tuf-client", "--metadata-dir", metadata, "init", root)
        base = ["--metadata-dir", metadata, "--metadata-url", f"{url}/metadata"]
        ask = ["--target-name", target, "--target-base-url", f"{url}/targets", "--target-dir", targets]
        status, _, err = self.run("tuf-client", *base, *ask, "download")
        found = [path.read_bytes() for path in targets.iterdir()]
        assert (status == 0) == (len(found) == 1), err
        return (found[0], "") if found else (None, err)


def python_tuf(work, root, url, target):
    """What python-tuf makes of a repository: the target's bytes."""
    (work / "metadata").mkdir(parents=True)
    (work / "targets").mkdir()
    updater = Updater(
        str(work / "metadata"),
        f"{url}/metadata/",
        str(work / "targets"),
        f"{url}/targets/",
        bootstrap=root.read_bytes(),
    )
    updater.refresh()
    info = updater.get_targetinfo(target)
    assert info is not None, f"python-tuf finds no {target}"
    return pathlib.Path(updater.download_target(info)).read_bytes()


def they_read_ours(programs, work):
    home = work / "home"
    passphrase = work / "passphrase"
    passphrase.write_text("of a test that ends soon\n")
    passphrase.chmod(0o600)
    secret = ["--passphrase-file", passphrase]
    programs.must("relevo", "--quiet", "init", home, *secret)
    vendor, codename = DEVICE.split("/")
    words = ["device", "add", codename, "--vendor", vendor, "--kind", "native", "--name", "Pretend phone"]
    programs.must("relevo", "--quiet", *words, *secret, cwd=home)
    for build in (1, 2):
        images = work / f"build{build}"
        images.mkdir()
        content = b"".join(b"%d in build %d\n" % (line, build if line % 50 == 0 else 0) for line in range(4096))
        (images / "system.img").write_bytes(content[: len(content) // 4096 * 4096])
        made = int((NOW - timedelta(days=10 - build)).timestamp())
        words = ["import", images, "--device", codename, "--build", build, "--version", f"{build}.0", "--timestamp", made]
        programs.must("relevo", "--quiet", *words, cwd=home)
    programs.must("relevo", "--quiet", "delta", codename, cwd=home)
    programs.must("relevo", "--quiet", "publish", *secret, cwd=home)
    repo = home / "repo"
    root = repo / "metadata" / "1.root.json"

    names = [f"{DEVICE}/stable/sample-1-to-2.rvp", f"{DEVICE}/stable/sample-2-full.rvp"]
    with served(repo) as url:
        for number, name in enumerate(names):
            directory, file = name.rsplit("/", 1)
            [ours] = (repo / "targets" / directory).glob(f"*.{file}")
            theirs = python_tuf(work / f"python{number}", root, url, name)
            assert theirs == ours.read_bytes(), f"python-tuf has other bytes of {name}"
            found, why = programs.tuf_client(work / f"ours{number}", root, url, name)
            assert found == theirs, f"tuf-client has other bytes of {name}: {why}"

        # And after the next publication, from the first root on.
        programs.must("relevo", "--quiet", "refresh", *secret, cwd=home)
        python_tuf(work / "python-refreshed", root, url, names[0])

        changed = bytearray(ours.read_bytes())
        changed[len(changed) // 2] ^= 1
        ours.write_bytes(changed)
        try:
            python_tuf(work / "python-changed", root, url, names[1])
            raise AssertionError("python-tuf takes a package with a flipped bit")
        except (RepositoryError, DownloadError):
            pass
        found, why = programs.tuf_client(work / "ours-changed", root, url, names[1])
        assert found is None and "whose sha256 was signed" in why, why


class TheirRepository:
    """A repository of Relevo's layout, made by python-tuf alone."""

    def __init__(self, directory):
        self.metadata = directory / "metadata"
        self.targets = directory / "targets"
        self.metadata.mkdir(parents=True)
        self.targets.mkdir()
        self.signers = {
            # One of each kind of key that TUF names.
            "root": [CryptoSigner.generate_ed25519(), CryptoSigner.generate_ecdsa()],
            "timestamp": [CryptoSigner.generate_ecdsa()],
            "snapshot": [CryptoSigner.generate_rsa(scheme="rsassa-pss-sha256")],
            "targets": [CryptoSigner.generate_ecdsa(), CryptoSigner.generate_ed25519()],
            "v-pretend": [CryptoSigner.generate_ecdsa()],
            # A device's keys sign packages, too, and those are ed25519.
            "d-sample": [CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()],
        }
        year, week = NOW + timedelta(days=300), NOW + timedelta(days=6)
        root = Root(expires=year)
        for role in ("root", "timestamp", "snapshot", "targets"):
            for signer in self.signers[role]:
                root.add_key(signer.public_key, role)
        root.roles["root"].threshold = 2
        root.roles["targets"].threshold = 2
        self.root = Metadata(root)
        self.roles = {
            "targets": self.delegating(year, "v-pretend", "pretend/*/*/*", 1),
            "v-pretend": self.delegating(year, "d-sample", f"{DEVICE}/*/*", 2),
            "d-sample": Metadata(Targets(expires=year)),
        }
        self.snapshot = Metadata(Snapshot(expires=year))
        self.timestamp = Metadata(Timestamp(expires=week))

    def delegating(self, expires, name, path, threshold):
        keys = {signer.public_key.keyid: signer.public_key for signer in self.signers[name]}
        role = DelegatedRole(name, list(keys), threshold, True, paths=[path])
        return Metadata(Targets(expires=expires, delegations=Delegations(keys, {name: role})))

    def add(self, path, content, custom):
        target = TargetFile.from_data(path, content, ["sha256"])
        target.unrecognized_fields["custom"] = custom
        self.roles["d-sample"].signed.targets[path] = target
        directory, file = path.rsplit("/", 1)
        (self.targets / directory).mkdir(parents=True, exist_ok=True)
        (self.targets / directory / f"{target.hashes['sha256']}.{file}").write_bytes(content)

    def write(self, name, file, metadata, compact):
        metadata.signatures.clear()
        for signer in self.signers[name]:
            metadata.sign(signer, append=True)
        (self.metadata / file).write_bytes(metadata.to_bytes(JSONSerializer(compact=compact)))

    def publish(self):
        version = self.timestamp.signed.version
        if self.root.signed.version == 1:
            self.write("root", "1.root.json", self.root, compact=False)
        for name, role in self.roles.items():
            role.signed.version = version
            # With and without white space: only what is signed counts.
            self.write(name, f"{version}.{name}.json", role, compact=name != "targets")
            self.snapshot.signed.meta[f"{name}.json"] = MetaFile(version)
        self.snapshot.signed.version = version
        self.write("snapshot", f"{version}.snapshot.json", self.snapshot, compact=True)
        data = (self.metadata / f"{version}.snapshot.json").read_bytes()
        self.timestamp.signed.snapshot_meta = MetaFile.from_data(version, data, ["sha256"])
        self.write("timestamp", "timestamp.json", self.timestamp, compact=True)
        self.timestamp.signed.version += 1

    def rotate(self, role):
        """A new key for a role, signed by the old and the new keys of the root."""
        root = self.root.signed
        old = self.signers[role]
        self.signers[role] = [CryptoSigner.generate_ed25519() for _ in old]
        for signer in old:
            root.revoke_key(signer.public_key.keyid, role)
        for signer in self.signers[role]:
            root.add_key(signer.public_key, role)
        root.version += 1
        kept = self.signers["root"]
        self.signers["root"] = kept + old if role == "root" else kept
        self.write("root", f"{root.version}.root.json", self.root, compact=False)
        self.signers["root"] = kept


def we_read_theirs(programs, work):
    repo = TheirRepository(work / "repo")
    path, content = f"{DEVICE}/stable/sample-2-full.rvp", b"a package, as far as metadata are concerned"
    made = int((NOW - timedelta(days=1)).timestamp())
    custom = {"kind": "native", "to": "2", "version": "2.0", "timestamp": made, "chunks": "sample-2-full.rvp.chunks"}
    repo.add(path, content, custom)
    repo.add(f"{path}.chunks", b"a list of chunks", {"kind": "chunks"})
    repo.publish()
    first = repo.metadata / "1.root.json"

    phone = work / "phone"
    for slot in "ab":
        (phone / "slots" / slot).mkdir(parents=True)
    (phone / "slots" / "a" / "system.img").write_bytes(bytes(4096))
    with served(work / "repo") as url:
        (phone / "updater.toml").write_text(
            f'mirrors = ["{url}/"]\nroot = "{first}"\nvendor = "pretend"\ncodename = "sample"\nstate_dir = "state"\n'
            '[block]\nslot_a = "slots/a"\nslot_b = "slots/b"\n'
            'build_file = "slots/{slot}/build.json"\nboot_control = "boot/control"\n'
        )
        updater = ["relevo-updater", "--config", phone / "updater.toml"]
        running = int((NOW - timedelta(days=2)).timestamp())
        programs.must(*updater, "factory", "--build", "1", "--timestamp", running)

        def check(step):
            found, why = programs.tuf_client(work / f"client-{step}", first, url, path)
            assert found == content, f"{step}: tuf-client: {why}"
            offer = programs.must(*updater, "--json", "check")
            assert '"2"' in offer and "sample-2-full.rvp" in offer, f"{step}: relevo-updater: {offer}"

        check("first")
        for role in ("timestamp", "snapshot", "targets", "root"):
            repo.rotate(role)
            repo.publish()
            check(f"after a rotation of {role}".replace(" ", "-"))

        # One of the two keys that have to sign is not there.
        gone = repo.signers["d-sample"].pop()
        repo.publish()
        found, why = programs.tuf_client(work / "client-threshold", first, url, path)
        assert found is None and "d-sample" in why and "needs 2" in why, why
        status, out, err = programs.run(*updater, "check")
        assert status == 1 and "needs 2" in out + err, (status, out, err)
        repo.signers["d-sample"].append(gone)
        repo.publish()
        check("with both again")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    programs = Programs(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        for test in (they_read_ours, we_read_theirs):
            directory = work / test.__name__
            directory.mkdir()
            test(programs, directory)
            print(f"ok: {test.__name__.replace('_', ' ')}")


if __name__ == "__main__":
    main()
