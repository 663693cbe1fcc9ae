#!/usr/bin/env python3
"""Makes consecutive builds of a pretend Android device out of pinned packages of real arm64 software.

    make_corpus.py OUT [--builds 1,2,3] [--cache DIR]

OUT/v1, OUT/v2, ... each hold system.img and vendor.img (ext4), product.img and system_ext.img (EROFS), boot.img (a
boot image as the bootloader reads it) and vbmeta.img (digests of the others); OUT/corpus.json says what is in them.
v1 to v2 is like a monthly update, v2 to v3 like a larger one.

The same pins and the same versions of the tools give the same bytes, whoever runs it; root is not needed. Needs npm,
pip, mke2fs and debugfs (e2fsprogs), mkfs.erofs (erofs-utils) and lz4.
"""

import argparse
import fnmatch
import gzip
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import uuid
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

BLOCK = 4096

# 2009-01-01 00:00:00 UTC, which AOSP writes into every file of an image.
FILE_TIME = 1230768000

# The tools of e2fsprogs live in /usr/sbin, which is not on every user's path.
TOOLS = {
    **os.environ,
    "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
    "E2FSPROGS_FAKE_TIME": str(FILE_TIME),
    "LC_ALL": "C",
    "TZ": "UTC",
}


# ---- what goes in ----------------------------------------------------------------------------------------------------


class Package(NamedTuple):
    """One package of a registry and where its files go."""

    registry: str
    name: str
    # The version in each build.
    versions: dict
    # Pattern of paths in the package -> path in the device; one that ends in "/" takes the files by their last name,
    # one that ends in "/." by their path below the pattern's first "*".
    files: dict


def steady(version, builds=(1, 2, 3)):
    return dict.fromkeys(builds, version)


PACKAGES = [
    Package(
        "npm",
        "io.appium.settings",
        {1: "5.14.12", 2: "5.14.14", 3: "5.14.15"},
        {"apks/settings_apk-debug.apk": "system/app/Settings/Settings.apk"},
    ),
    Package(
        "npm",
        "@rollup/rollup-android-arm64",
        {1: "4.40.1", 2: "4.40.2", 3: "4.40.2"},
        {"rollup.android-arm64.node": "vendor/lib64/librollup.so"},
    ),
    Package(
        "npm",
        "@esbuild/android-arm64",
        {1: "0.25.4", 2: "0.25.5", 3: "0.25.5"},
        # A large static arm64 program, as a kernel is.
        {"bin/esbuild": "boot/kernel", "package.json": "boot/ramdisk/etc/"},
    ),
    Package(
        "pip",
        "uiautomator2",
        {1: "3.2.9", 2: "3.2.9", 3: "3.3.1"},
        {
            "uiautomator2/assets/*.apk": "product/app/Automator/Automator.apk",
            "uiautomator2/assets/*.jar": "product/framework/",
            "uiautomator2/*.py": "product/usr/python/.",
        },
    ),
    Package(
        "pip",
        "cryptography",
        {1: "44.0.2", 2: "44.0.3", 3: "44.0.3"},
        {"cryptography/*/_rust.abi3.so": "system/lib64/libcrypto_rust.so", "cryptography/*.py": "system/usr/python/."},
    ),
    Package(
        "pip",
        "lxml",
        {1: "5.3.1", 2: "5.3.1", 3: "5.3.2"},
        {"lxml/etree*.so": "system/lib64/libxml_etree.so", "lxml/objectify*.so": "system/lib64/libxml_objectify.so"},
    ),
    Package(
        "pip",
        "pillow",
        {1: "11.1.0", 2: "11.1.0", 3: "11.2.1"},
        {"pillow.libs/*": "system_ext/lib64/", "PIL/*.so": "system_ext/lib64/imaging/", "PIL/*.py": "system_ext/usr/."},
    ),
    Package(
        "pip",
        "pyzmq",
        {1: "26.3.0", 2: "26.4.0", 3: "26.4.0"},
        {"zmq/*.so": "vendor/lib64/", "pyzmq.libs/*": "vendor/lib64/zmq/"},
    ),
    Package("pip", "tzdata", {1: "2025.1", 2: "2025.2", 3: "2025.2"}, {"tzdata/zoneinfo/*": "system/usr/share/zoneinfo/."}),
    Package("pip", "certifi", {1: "2025.1.31", 2: "2025.4.26", 3: "2025.4.26"}, {"*/cacert.pem": "system/etc/security/"}),
    Package("npm", "@expo-google-fonts/roboto", steady("0.4.1"), {"*.ttf": "system/fonts/"}),
]

# Renames, each made in one build and kept in the later ones: files move between releases.
MOVES = {
    2: {"system/app/Settings": "system/priv-app/Settings", "system/lib64/libxml_objectify.so": "system/lib64/libxml_o2.so"},
    3: {"system/usr/share/zoneinfo": "system/usr/share/tz"},
}

# SHA-256 of each file that a registry hands out: a pin that a registry cannot move.
PINS = json.loads(Path(__file__).with_name("corpus-pins.json").read_text())


# ---- fetching --------------------------------------------------------------------------------------------------------


def fetch(package, version, cache):
    """Downloads one package into the cache, once; returns its file."""
    spec = package.name + ("@" if package.registry == "npm" else "==") + version
    kept = cache / (package.registry + "-" + spec.replace("/", "+"))
    if not kept.exists():
        print(f"fetching {spec}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            if package.registry == "npm":
                command = ["npm", "pack", "--silent", "--ignore-scripts", spec]
            else:
                command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--only-binary=:all:"]
                command += ["--python-version=3.11", "--implementation=cp"]
                command += ["--platform=manylinux2014_aarch64", "--platform=manylinux_2_28_aarch64", spec]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            (found,) = Path(folder).iterdir()
            check_pin(spec, found)
            found.rename(kept)
    check_pin(spec, kept)
    return spec, kept


def check_pin(spec, file):
    actual = hashlib.sha256(file.read_bytes()).hexdigest()
    if actual != PINS.get(spec):
        raise SystemExit(f"{spec}: the file's SHA-256 is {actual}, corpus-pins.json says {PINS.get(spec)}")


def contents(registry, archive):
    """Every regular file of a package, as pairs of path and bytes."""
    if registry == "pip":
        with zipfile.ZipFile(archive) as source:
            for name in source.namelist():
                if not name.endswith("/"):
                    yield name, source.read(name)
    else:
        with tarfile.open(archive, "r:gz") as source:
            for member in source:
                if member.isfile():
                    yield member.name.split("/", 1)[1], source.extractfile(member).read()


def unpack(package, archive, stage):
    matched = set()
    for path, data in contents(package.registry, archive):
        for pattern, place in package.files.items():
            if not fnmatch.fnmatchcase(path, pattern):
                continue
            matched.add(pattern)
            if place.endswith("/."):
                fixed = pattern.split("*")[0].rpartition("/")[0]
                place = place[:-1] + path[len(fixed) :].lstrip("/")
            elif place.endswith("/"):
                place += PurePosixPath(path).name
            file = stage / place
            if file.exists():
                raise SystemExit(f"{package.name}: two files want to be {place}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            break
    if matched != set(package.files):
        raise SystemExit(f"{package.name}: nothing matches {set(package.files) - matched}")


# ---- images ----------------------------------------------------------------------------------------------------------


def run(*command, feed=None):
    words = [str(word) for word in command]
    done = subprocess.run(words, input=feed, env=TOOLS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def tree(folder):
    """Everything below a folder, parents first."""
    return sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts)


def identity(name):
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "corpus/" + name))


def label(name):
    return "u:object_r:system_lib_file:s0" if name.endswith(".so") else "u:object_r:system_file:s0"


def blocks(size):
    return -(-size // BLOCK)


def make_ext4(image, folder, name):
    """An ext4 as AOSP makes one: no journal, 256-byte inodes, nearly full, labels for SELinux."""
    paths = tree(folder)
    data = sum(blocks(path.stat().st_size) if path.is_file() else 1 for path in paths)
    inodes = len(paths) + 32
    size = data + data // 40 + inodes // 8 + 256
    features = "none,sparse_super,large_file,filetype,dir_index,ext_attr,extent,huge_file,dir_nlink,extra_isize"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", BLOCK, "-I", 256, "-N", inodes, "-m", 0,
        "-O", features, "-L", name, "-M", f"/{name}", "-U", identity(name),
        "-E", f"hash_seed={identity(name + '/hash')},root_owner=0:0,lazy_itable_init=0",
        "-d", folder, image, size)  # fmt: skip
    # mke2fs takes over owner and change time of whoever staged the files.
    script = []
    for path in [folder, *paths]:
        inside = "/" + path.relative_to(folder).as_posix().removeprefix(".")
        for field, value in [("uid", 0), ("gid", 0), ("atime", f"@{FILE_TIME}"), ("ctime", f"@{FILE_TIME}")]:
            script.append(f'set_inode_field "{inside}" {field} {value}')
        script.append(f'set_inode_field "{inside}" mtime @{FILE_TIME}')
        script.extend(f'set_inode_field "{inside}" {field}_extra 0' for field in ("atime", "ctime", "mtime"))
        script.append(f'ea_set "{inside}" security.selinux {label(inside)}\\000')
    run("debugfs", "-w", "-f", "-", image, feed="\n".join(script).encode() + b"\n")


def make_erofs(image, folder, name):
    with tempfile.NamedTemporaryFile("w", suffix=".contexts") as contexts:
        contexts.write(f"/.* {label('')}\n/.*\\.so {label('.so')}\n")
        contexts.flush()
        run("mkfs.erofs", "--quiet", "-zlz4hc,9", "-C65536", f"-T{FILE_TIME}", f"-U{identity(name)}", "--all-root",
            f"--file-contexts={contexts.name}", image, folder)  # fmt: skip


def cpio(folder):
    """An archive in the "newc" format, which the kernel unpacks."""
    archive = bytearray()

    def add(number, name, mode, data):
        fields = [number, mode, 0, 0, 1, FILE_TIME if number else 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        archive.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        archive.extend(bytes(-len(archive) % 4) + data)
        archive.extend(bytes(-len(archive) % 4))

    for number, path in enumerate(tree(folder), 1):
        directory = path.is_dir()
        mode = 0o040755 if directory else 0o100644
        add(number, path.relative_to(folder).as_posix(), mode, b"" if directory else path.read_bytes())
    add(0, "TRAILER!!!", 0, b"")
    return bytes(archive)


def make_boot(image, folder, _name):
    """A boot image, header version 4: page-aligned header, gzip'ed kernel, LZ4'ed ramdisk."""
    kernel = gzip.compress((folder / "kernel").read_bytes(), 9, mtime=0)
    ramdisk = run("lz4", "-l", "-9", "-c", feed=cpio(folder / "ramdisk"))
    os_version = (15 << 25) | (25 << 4) | 5
    header = b"ANDROID!" + struct.pack("<4I16xI", len(kernel), len(ramdisk), os_version, 1584, 4) + bytes(1536 + 4)
    with image.open("wb") as out:
        for part in (header, kernel, ramdisk):
            out.write(part + bytes(-len(part) % BLOCK))


def add_hash_tree(image, name):
    """Appends a dm-verity hash tree, so that a change of content changes its hashes too; returns the root hash."""
    data = image.read_bytes()
    data += bytes(-len(data) % BLOCK)
    salt = hashlib.sha256(name.encode()).digest()
    levels, level = [], data
    while len(level) > BLOCK:
        hashes = (hashlib.sha256(salt + level[at : at + BLOCK]).digest() for at in range(0, len(level), BLOCK))
        level = b"".join(hashes)
        level += bytes(-len(level) % BLOCK)
        levels.insert(0, level)
    image.write_bytes(data + b"".join(levels))
    return hashlib.sha256(salt + level).digest()


# Name of a partition -> what makes it.
PARTITIONS = {"system": make_ext4, "vendor": make_ext4, "product": make_erofs, "system_ext": make_erofs, "boot": make_boot}


def build_properties(partition, number):
    """What `build.prop` says; the build's id is its date."""
    day = f"2025{3 + number:02}05"
    return "".join(
        f"{line}\n"
        for line in (
            f"ro.{partition}.build.version.incremental={day}",
            f"ro.{partition}.build.date.utc={FILE_TIME + number * 30 * 86400}",
            f"ro.{partition}.build.fingerprint=pretend/sample/sample:15/AP4A/{day}:userdebug/test-keys",
            f"ro.build.version.security_patch=2025-{3 + number:02}-05",
            "ro.product.cpu.abi=arm64-v8a",
        )
    )


def make_build(number, out, cache):
    """Makes one build's images in the folder `out`; returns what corpus.json says of it."""
    sources = []
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        stage = Path(folder)
        for package in PACKAGES:
            spec, archive = fetch(package, package.versions[number], cache)
            unpack(package, archive, stage)
            sources.append(spec)
        for partition in PARTITIONS:
            if partition != "boot":
                (stage / partition / "etc").mkdir(parents=True, exist_ok=True)
                (stage / partition / "etc/build.prop").write_text(build_properties(partition, number))
        for made_in, moves in MOVES.items():
            if made_in <= number:
                for old, new in moves.items():
                    (stage / new).parent.mkdir(parents=True, exist_ok=True)
                    (stage / old).rename(stage / new)
        for path in [stage, *tree(stage)]:
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (FILE_TIME, FILE_TIME))
        made = Path(tempfile.mkdtemp(dir=cache))
        digests = b""
        for partition, make in PARTITIONS.items():
            image = made / f"{partition}.img"
            make(image, stage / partition, partition)
            digests += partition.encode().ljust(32, b"\0") + add_hash_tree(image, partition)
        (made / "vbmeta.img").write_bytes((b"AVB0" + bytes(252) + digests).ljust(2 * BLOCK, b"\0"))
    images = {}
    for image in sorted(made.iterdir()):
        images[image.stem] = {"size": image.stat().st_size, "sha256": hashlib.sha256(image.read_bytes()).hexdigest()}
    made.chmod(0o755)
    # A build has its name only once it is whole.
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(made, out)
    return {"sources": sources, "images": images}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="where v1, v2, ... are made")
    parser.add_argument("--builds", default="1,2,3", help="which builds, by number (default: 1,2,3)")
    parser.add_argument("--cache", type=Path, help="where downloads are kept (default: OUT/cache)")
    options = parser.parse_args()

    cache = options.cache or options.out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    # Whatever this file or its pins say, and for which builds: a corpus that is up to date is left alone.
    recipe = hashlib.sha256(Path(__file__).read_bytes() + json.dumps(PINS).encode()).hexdigest()
    listing = options.out / "corpus.json"
    corpus = json.loads(listing.read_text()) if listing.exists() else {}
    if corpus.get("recipe") != recipe:
        corpus = {"recipe": recipe, "builds": {}}
    for number in map(int, options.builds.split(",")):
        name = f"v{number}"
        if name in corpus["builds"] and (options.out / name).is_dir():
            continue
        corpus["builds"][name] = make_build(number, options.out / name, cache)
        fresh = listing.with_suffix(".new")
        fresh.write_text(json.dumps(corpus, indent=1) + "\n")
        fresh.replace(listing)
        size = sum(image["size"] for image in corpus["builds"][name]["images"].values())
        print(f"{options.out / name}: {size / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
