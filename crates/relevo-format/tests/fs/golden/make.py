#!/usr/bin/env python3
"""Makes the golden images and their lists, and the seeds of the fuzz targets: make.py [MKFS_EROFS]

The lists come from the tree, not from the images. Fragments and shared clusters need erofs-utils 1.7 or newer; without
one, give no argument and those images are left as they are. Seeds lack the zeros at their end; the targets add some.
"""
import hashlib
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
EXT4 = ["mke2fs", "-q", "-F", "-U", "6b2a5c1e-0000-4000-8000-000000000000", "-E", "hash_seed=6b2a5c1e-0000-4000-8000-000000000001"]
EROFS = ["-T0", "-U6b2a5c1e-0000-4000-8000-000000000000", "--all-root"]
IMAGES = {
    "ext4-android": ["-t", "ext4", "-b", "4096", "-I", "256", "-O", "^has_journal,^metadata_csum,^64bit,^resize_inode", "-N", "64"],
    "ext4-small-blocks": ["-t", "ext4", "-b", "1024", "-O", "^has_journal,64bit,^resize_inode", "-N", "64"],
    "ext4-inline": ["-t", "ext4", "-b", "1024", "-I", "256", "-O", "inline_data,^has_journal,^resize_inode", "-N", "64"],
    "ext2-map": ["-t", "ext2", "-b", "1024", "-I", "128", "-O", "^resize_inode", "-N", "64"],
    "erofs-plain": [],
    "erofs-compact": ["-zlz4hc,9", "-C16384"],
    "erofs-legacy": ["-zlz4", "-Elegacy-compress"],
    "erofs-tailpacking": ["-zlz4hc,9", "-Eztailpacking"],
    "erofs-fragments": ["-zlz4hc,9", "-Efragments"],
    "erofs-dedupe": ["-zlz4hc,9", "-Ededupe"],
}
NEWER = ["erofs-fragments", "erofs-dedupe"]


def make_tree(tree: Path) -> None:
    dice = random.Random(3)
    words = [dice.randbytes(3 + word % 9) for word in range(200)]
    text = lambda size: b" ".join(dice.choices(words, k=size // 4 + 4))[:size]
    shared = text(30_000)
    files = {f"sizes/{size}": text(size) for size in (0, 1, 59, 60, 61, 100, 1023, 4095, 4096, 4097, 9000)}
    files |= {
        "lib/one.so": shared + dice.randbytes(9000),
        "lib/two.so": text(77) + shared[:25_000] + text(2000),
        "lib/zero.so": bytes(20_000),
        "a/b/c/deep": b"down here",
    }
    for name, contents in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    os.link(tree / "lib/one.so", tree / "lib/again.so")
    (tree / "empty").mkdir()
    for size in (1, 59, 60, 200):
        (tree / f"link{size}").symlink_to("t" * size)
    os.mkfifo(tree / "pipe")
    with open(tree / "holes", "wb") as holes:
        for start in (0, 12_288, 40_960):
            holes.seek(start)
            holes.write(b"x" * 4096)
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (0, 0), follow_symlinks=False)


def line(kind: str, contents: bytes, path: str) -> str:
    return f"{kind} {len(contents):>9} {hashlib.sha256(contents).hexdigest()} {path}\n"


def list_of(tree: Path, lost_and_found: bool) -> str:
    lines = {"lost+found": line("d", b"", "lost+found")} if lost_and_found else {}
    for path in tree.rglob("*"):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            lines[name] = line("l", os.readlink(path).encode(), name)
        elif path.is_dir():
            lines[name] = line("d", b"", name)
        elif path.is_fifo():
            lines[name] = line("s", b"", name)
        else:
            lines[name] = line("f", path.read_bytes(), name)
    return "".join(lines[name] for name in sorted(lines))


SEEDS = {
    "ext4/seed-extents": ["-t", "ext4", "-b", "1024", "-O", "none,extent,filetype", "-N", "32"],
    "ext4/seed-inline": ["-t", "ext4", "-b", "1024", "-I", "256", "-O", "none,extent,inline_data,64bit", "-N", "32"],
    "ext4/seed-map": ["-t", "ext2", "-b", "1024", "-I", "128", "-O", "none,filetype", "-N", "32"],
    "erofs/seed-plain": [],
    "erofs/seed-compact": ["-zlz4hc", "-C16384"],
    "erofs/seed-legacy": ["-zlz4", "-Elegacy-compress"],
    "erofs/seed-tailpacking": ["-zlz4hc", "-Eztailpacking"],
    "erofs/seed-chunks": ["--chunksize=4096"],
    "erofs/seed-fragments": ["-zlz4hc", "-Efragments,dedupe"],
}


def make_seeds(scratch: Path, newer: str | None) -> None:
    corpus = HERE / "../../../../../fuzz/corpus"
    tree, image = scratch / "small", scratch / "image"
    (tree / "d").mkdir(parents=True)
    (tree / "d/text").write_bytes(b"".join(b"%d little words " % number for number in range(1600)))
    (tree / "d/short").write_bytes(b"short")
    (tree / "middle").write_bytes(b"m" * 90)
    (tree / "link").symlink_to("d/short")
    with open(tree / "holes", "wb") as holes:
        holes.seek(5000)
        holes.write(b"end")
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (0, 0), follow_symlinks=False)
    for name, arguments in SEEDS.items():
        image.unlink(missing_ok=True)
        if name.startswith("ext4"):
            subprocess.run([*EXT4, *arguments, "-m0", "-d", tree, image, "96K"], check=True)
        elif "-Efragments,dedupe" not in arguments or newer:
            tool = newer if "-Efragments,dedupe" in arguments else "mkfs.erofs"
            subprocess.run([tool, "--quiet", *EROFS, *arguments, image, tree], check=True)
        else:
            continue
        (corpus / name).parent.mkdir(exist_ok=True)
        (corpus / name).write_bytes(image.read_bytes().rstrip(b"\0"))


def main() -> None:
    newer = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as scratch:
        tree, image = Path(scratch, "tree"), Path(scratch, "image")
        make_tree(tree)
        for name, arguments in IMAGES.items():
            image.unlink(missing_ok=True)
            if name.startswith("ext"):
                subprocess.run([*EXT4, *arguments, "-d", tree, image, "512K"], check=True)
            elif name not in NEWER:
                subprocess.run(["mkfs.erofs", "--quiet", *EROFS, *arguments, image, tree], check=True)
            elif newer:
                subprocess.run([newer, "--quiet", *EROFS, *arguments, image, tree], check=True)
            else:
                continue
            subprocess.run(["zstd", "-q", "-f", "-19", image, "-o", HERE / f"{name}.img.zst"], check=True)
            (HERE / f"{name}.list").write_text(list_of(tree, name.startswith("ext")))
        make_seeds(Path(scratch), newer)


main()
