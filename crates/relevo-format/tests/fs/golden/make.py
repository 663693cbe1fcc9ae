#!/usr/bin/env python3
"""Makes the golden images and their lists: make.py [MKFS_EROFS]

The lists come from the tree, not from the images. Fragments and shared clusters need erofs-utils 1.7 or newer; without
one, give no argument and those two are left as they are.
"""
import hashlib
import os
import random
import shutil
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


main()
