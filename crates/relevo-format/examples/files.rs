//! Lists the files of an ext4 or EROFS image: kind, size, SHA-256 of the contents, path.
//!
//! `files IMAGE` prints one line for each, sorted by path, in a form that `tests/fs/golden` has.

use std::{io, io::Write, path::Path};

use relevo_format::{
    Section,
    fs::{self, FileKind, Limits},
    image::open_image,
};
use sha2::{Digest, Sha256};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: files IMAGE")?;
    let image = open_image(Path::new(&path))?;
    let listing = fs::read(&image, &Limits::default())?;
    let mut out = io::stdout().lock();
    for file in &listing.files {
        let kind = match file.kind {
            FileKind::Regular => 'f',
            FileKind::Symlink => 'l',
            FileKind::Directory => 'd',
            FileKind::Special => 's',
        };
        let mut hash = Sha256::new();
        let mut contents = Section::whole(fs::open(&image, file));
        let mut buf = vec![0; 1 << 16];
        loop {
            let len = io::Read::read(&mut contents, &mut buf)?;
            if len == 0 {
                break;
            }
            hash.update(&buf[..len]);
        }
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{kind} {:>9} {digest} {}", file.size, file.path.escape_ascii())?;
    }
    Ok(())
}
