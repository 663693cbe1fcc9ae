//! Applies the finished package and compares with the target, byte by byte.

use std::{
    io::{self, Write},
    path::Path,
};

use rayon::prelude::*;
use relevo_format::{
    FileAt, ReadAt, Section,
    apply::{self, ApplyError},
    package::{Front, Limits, PackageError},
};

use crate::{DeltaError, Images, Progress, Silent, progress::advance, scan::whole_hash};

/// Reads the package as a phone would and applies every piece.
///
/// # Errors
/// [`DeltaError::Verify`], [`DeltaError::Differs`], [`DeltaError::Stopped`].
pub(crate) fn verify(
    package: &Path,
    old: &Images<'_>,
    new: &Images<'_>,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<(), DeltaError> {
    let package = FileAt::open(package).map_err(PackageError::Io)?;
    let front = Front::read(&mut Section::whole(&package), limits)?;
    let body = apply::body(&front, &package)?;
    let open = |name: &_| -> io::Result<Box<dyn ReadAt>> {
        let image = old.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(image))
    };
    let hashed = |bytes| progress.advance(bytes);
    let source = apply::check_source(front.manifest(), open, hashed).map_err(|error| match error {
        ApplyError::Stopped => DeltaError::Stopped,
        error => DeltaError::Verify(error),
    })?;

    let pieces: Vec<(usize, usize)> = front
        .manifest()
        .partitions
        .iter()
        .enumerate()
        .flat_map(|(partition, made)| (0..made.pieces.len()).map(move |piece| (partition, piece)))
        .collect();
    // Pieces are compared with the target as it is now, so the target must still be what was scanned.
    let unchanged = || {
        front.manifest().partitions.par_iter().try_for_each(|made| {
            let read = |source| DeltaError::Read { partition: made.name.clone(), build: "target", source };
            let actual = whole_hash(&*new[&made.name], &Silent);
            let actual = actual.map_err(|error| error.map_or(DeltaError::Stopped, read))?;
            if actual == made.sha256 { Ok(()) } else { Err(DeltaError::Differs { partition: made.name.clone() }) }
        })
    };
    let applies = || {
        pieces.into_par_iter().try_for_each(|(partition, piece)| {
            let made = &front.manifest().partitions[partition];
            let image = &new[&made.name];
            let mut compare = Compare { image: &**image, at: made.pieces[piece].start, buffer: Vec::new() };
            apply::apply_piece(&front, partition, piece, &source, &body, &mut compare).map_err(
                |error| match error {
                    ApplyError::Write { .. } | ApplyError::TargetDiffers { .. } => {
                        DeltaError::Differs { partition: made.name.clone() }
                    }
                    error => DeltaError::Verify(error),
                },
            )?;
            advance(progress, made.pieces[piece].len)
        })
    };
    let (applies, unchanged) = rayon::join(applies, unchanged);
    applies.and(unchanged)
}

/// Accepts only what stands in the image at this place.
struct Compare<'a> {
    image: &'a dyn ReadAt,
    at: u64,
    buffer: Vec<u8>,
}

impl Write for Compare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.resize(bytes.len(), 0);
        self.image.read_exact_at(&mut self.buffer, self.at)?;
        if self.buffer != bytes {
            return Err(io::Error::other("the bytes differ from the target image"));
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
