#!/usr/bin/env python3
"""Makes the images of this directory with AOSP's avbtool and with veritysetup; README.md says which versions.

make.py AVBTOOL.py VERITYSETUP TESTKEY.pem OUT_DIR
"""

import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCK = 4096
SALT = bytes(range(0x40, 0x60)).hex()

# What avbtool calls for error correction. AOSP's own program of this name is part of its build; this one takes the
# bytes from veritysetup, an implementation of its own, and checks that it makes the same hash tree as avbtool did.
FEC = """#!/usr/bin/env python3
import os, shutil, struct, subprocess, sys
args = sys.argv[1:]
roots = int(args[args.index("--roots") + 1])
if "--print-fec-size" in args:
    blocks = -(-int(args[args.index("--print-fec-size") + 1]) // 4096)
    print(-(-blocks // (255 - roots)) * roots * 4096 + 4096)
    sys.exit()
image, out = args[-2:]
data = int(os.environ["DATA_BLOCKS"])
copy = out + ".copy"
shutil.copyfile(image, copy)
open(out, "wb").close()
subprocess.run([os.environ["VERITYSETUP"], "format", "--no-superblock", "--hash=sha256", "--salt=" + os.environ["SALT"],
    f"--data-blocks={data}", f"--hash-offset={data * 4096}", "--fec-device=" + out, f"--fec-roots={roots}", copy, copy],
    check=True, stdout=sys.stderr)
if open(copy, "rb").read() != open(image, "rb").read():
    sys.exit("avbtool and veritysetup make different hash trees")
os.remove(copy)
size = -(-(os.path.getsize(image) // 4096) // (255 - roots)) * roots * 4096
with open(out, "r+b") as file:
    file.truncate(size)
    file.seek(0, 2)
    file.write(struct.pack("<LLLLLQ32s", 0xfecfecfe, 0, 60, roots, size, 0, b"").rjust(4096, bytes(1)))
"""


def contents(blocks):
    """Blocks that are all different and compress well: each holds its number over and over."""
    return b"".join(struct.pack(">I", number * 2654435761 % 2**32) * (BLOCK // 4) for number in range(blocks))


def main():
    avbtool, veritysetup, testkey, out = sys.argv[1:]
    out = Path(out)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        (work / "fec").write_text(FEC)
        (work / "fec").chmod(stat.S_IRWXU)
        env = os.environ | {"PATH": f"{work}:{os.environ['PATH']}", "VERITYSETUP": veritysetup, "SALT": SALT}

        def tool(*args, **more):
            subprocess.run([sys.executable, avbtool, *map(str, args)], check=True, env=env | more)

        def key(name, bits):
            subprocess.run(["openssl", "genrsa", "-out", work / name, str(bits)], check=True, capture_output=True)
            return work / name

        own = key("own.pem", 4096)
        images = []

        def hashtree(name, blocks, *args, prop=True):
            image = work / f"{name}.img"
            image.write_bytes(contents(blocks))
            props = ["--prop", f"com.android.build.{name}.fingerprint:a/b/c:14/X/1:user/release-keys",
                     "--prop", f"com.android.build.{name}.os_version:14",
                     "--prop", f"com.android.build.{name}.security_patch:2024-05-01"] if prop else []
            tool("add_hashtree_footer", "--image", image, "--partition_name", name, "--hash_algorithm", "sha256",
                 "--salt", SALT, *props, *args, DATA_BLOCKS=str(blocks))
            images.append(image)

        # Two levels of the tree and two rounds of codewords; unsigned, as dynamic partitions are.
        hashtree("system", 300, "--partition_size", 0)
        # The footer is at the end of a larger partition.
        hashtree("vendor", 130, "--partition_size", 280 * BLOCK, prop=False)
        # No error correction, and the algorithm of old builds.
        hashtree("product", 3, "--partition_size", 0, "--do_not_generate_fec", prop=False)
        # More roots than two, and one round that is full to its last block: 231 = 228 + 3.
        hashtree("odm", 228, "--partition_size", 0, "--fec_num_roots", 24, prop=False)

        boot = work / "boot.img"
        boot.write_bytes(contents(5)[:-100])
        tool("add_hash_footer", "--image", boot, "--partition_name", "boot", "--partition_size", 32 * BLOCK,
             "--salt", SALT, "--prop", "com.android.build.boot.security_patch:2024-05-01")
        recovery = work / "recovery.img"
        recovery.write_bytes(contents(4))
        tool("add_hash_footer", "--image", recovery, "--partition_name", "recovery", "--partition_size", 32 * BLOCK,
             "--hash_algorithm", "sha512", "--salt", "", "--algorithm", "SHA512_RSA4096", "--key", own,
             "--rollback_index", 7)
        tool("extract_public_key", "--key", own, "--output", work / "own.avbpubkey")
        vbmeta = work / "vbmeta.img"
        tool("make_vbmeta_image", "--output", vbmeta, "--algorithm", "SHA256_RSA2048", "--key", testkey,
             "--rollback_index", 1714521600, "--padding_size", BLOCK,
             "--include_descriptors_from_image", boot, "--include_descriptors_from_image", work / "system.img",
             "--include_descriptors_from_image", work / "vendor.img",
             "--kernel_cmdline", "androidboot.x=1",
             "--chain_partition", f"recovery:2:{work / 'own.avbpubkey'}")
        images += [boot, recovery, vbmeta]
        lines = []
        for image in sorted(images):
            info = subprocess.run([sys.executable, avbtool, "info_image", "--image", image], check=True, env=env,
                                  capture_output=True, text=True).stdout
            lines.append(f"== {image.name}\n{info}")
            # Each is one frame, so that the tests need nothing but a decoder.
            subprocess.run(["zstd", "-q", "-19", "-f", image, "-o", out / f"{image.name}.zst"], check=True)
        (out / "info.txt").write_text("\n".join(lines))
        vbmeta = next(image for image in images if image.name == "vbmeta.img")
        digest = subprocess.run([sys.executable, avbtool, "calculate_vbmeta_digest", "--image", vbmeta], check=True, env=env,
                                capture_output=True, text=True).stdout
        (out / "vbmeta-digest.txt").write_text(digest)
        # A tree of three levels, by its root alone: 130 blocks of hashes, two above them, one on top.
        big = work / "big.img"
        big.write_bytes(contents(16500))
        made = subprocess.run([veritysetup, "format", "--no-superblock", "--hash=sha256", f"--salt={SALT}",
                               "--data-blocks=16500", big, work / "big.tree"], check=True, capture_output=True, text=True)
        root = next(line.split()[-1] for line in made.stdout.splitlines() if line.startswith("Root hash"))
        fec = work / "big.fec"
        fec.touch()
        shutil.copyfile(work / "big.tree", work / "big.tree2")
        subprocess.run([veritysetup, "format", "--no-superblock", "--hash=sha256", f"--salt={SALT}",
                        "--data-blocks=16500", f"--fec-device={fec}", "--fec-roots=2", big, work / "big.tree2"],
                       check=True, capture_output=True)
        digest = lambda path: subprocess.run(["sha256sum", path], check=True, capture_output=True,
                                             text=True).stdout.split()[0]
        # The other digests that update_engine knows, over 300 blocks.
        small = work / "small.img"
        small.write_bytes(contents(300))
        lines = []
        for algorithm in ["sha1", "sha384", "sha512"]:
            tree = work / f"{algorithm}.tree"
            subprocess.run([veritysetup, "format", "--no-superblock", f"--hash={algorithm}", f"--salt={SALT}",
                            "--data-blocks=300", small, tree], check=True, capture_output=True)
            lines.append(f"{algorithm} {digest(tree)} {tree.stat().st_size}\n")
        (out / "other-digests.txt").write_text("".join(lines))
        (out / "three-levels.txt").write_text(
            f"root {root}\ntree {digest(work / 'big.tree')} {(work / 'big.tree').stat().st_size}\n"
            f"fec {digest(fec)} {fec.stat().st_size}\n")


main()
