//! The compression of a snapshot, as the phone has it.

use std::{fmt, str::FromStr};

use flate2::{Compress, FlushCompress, Status};
use zstd::zstd_safe::{CCtx, CParameter};

use super::CowError;

/// How blocks of a snapshot are compressed, with the level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// `gz`: zlib, level 0 to 9.
    Gz(u32),
    /// Brotli, quality 0 to 11.
    Brotli(u32),
    /// LZ4, which has one level.
    Lz4,
    /// Zstandard, level -7 to 22.
    Zstd(i32),
}

impl Compression {
    /// What to add to `size` bytes because the phone has another version of the compressor, or makes other choices.
    ///
    /// AOSP's generator adds 1 %, with the libraries that phones have. Ours were compared with those on images of ext4
    /// and EROFS, in pieces of 4 KiB and 64 KiB: LZ4 gives the same bytes since 1.9.2. Zstandard 1.5.7 gives 0.01 % less
    /// than 1.5.6, which Android 15 has. What we have for zlib and Brotli is not what phones have: at the worst it gave
    /// 0.04 % less than zlib (level 9, where Chromium's and Android's changes to zlib make no difference), and never
    /// less than Brotli; other content may be less kind, so these get twice as much.
    pub(super) fn slack(self, size: u64) -> u64 {
        match self {
            Self::None | Self::Lz4 | Self::Zstd(_) => size / 100,
            Self::Gz(_) | Self::Brotli(_) => size / 50,
        }
    }

    /// The first SDK whose `update_engine` knows it.
    pub fn since_sdk(self) -> u32 {
        match self {
            Self::None | Self::Gz(_) | Self::Brotli(_) => 31,
            Self::Lz4 => 34,
            Self::Zstd(_) => 35,
        }
    }
}

impl FromStr for Compression {
    type Err = CowError;

    /// As `vabc_compression_param` has it: a name, and a level after a comma if it is not the usual one. Nothing at all
    /// is `gz`, as phones have it.
    fn from_str(text: &str) -> Result<Self, CowError> {
        let unknown = || CowError::Compression(text.chars().take(40).collect());
        let (name, level) = match text.split_once(',') {
            Some((name, level)) => (name, Some(level.parse::<i32>().map_err(|_| unknown())?)),
            None => (text, None),
        };
        let within = |usual: u32, most: u32| match level {
            None => Ok(usual),
            Some(level) => u32::try_from(level).ok().filter(|&level| level <= most).ok_or_else(unknown),
        };
        match name {
            "" | "gz" => Ok(Self::Gz(within(9, 9)?)),
            "brotli" => Ok(Self::Brotli(within(11, 11)?)),
            "lz4" => Ok(Self::Lz4),
            "none" => Ok(Self::None),
            "zstd" => match level.unwrap_or(3) {
                level @ -7..=22 => Ok(Self::Zstd(level)),
                _ => Err(unknown()),
            },
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Gz(9) => f.write_str("gz"),
            Self::Gz(level) => write!(f, "gz,{level}"),
            Self::Brotli(11) => f.write_str("brotli"),
            Self::Brotli(quality) => write!(f, "brotli,{quality}"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd(3) => f.write_str("zstd"),
            Self::Zstd(level) => write!(f, "zstd,{level}"),
        }
    }
}

/// Compresses pieces of one length at most, to know how long they get.
pub(in crate::ab) struct Compressor {
    state: State,
    out: Vec<u8>,
}

enum State {
    None,
    Gz(Box<Compress>),
    Brotli(u32),
    Lz4,
    Zstd(CCtx<'static>),
}

impl Compressor {
    /// For pieces of `longest` bytes at most, which is a power of two.
    pub(in crate::ab) fn new(compression: Compression, longest: usize) -> Result<Self, CowError> {
        let state = match compression {
            Compression::None => State::None,
            Compression::Gz(level) => State::Gz(Box::new(Compress::new(flate2::Compression::new(level), true))),
            Compression::Brotli(quality) => State::Brotli(quality),
            Compression::Lz4 => State::Lz4,
            Compression::Zstd(level) => {
                let mut context = CCtx::create();
                // libsnapshot sets the window by the longest piece, whatever the level says.
                for parameter in [CParameter::CompressionLevel(level), CParameter::WindowLog(longest.ilog2())] {
                    context.set_parameter(parameter).map_err(zstd_error)?;
                }
                State::Zstd(context)
            }
        };
        // More than any of them makes of noise.
        Ok(Self { state, out: vec![0; longest + longest / 64 + 1024] })
    }

    /// One that is fast and tells roughly how well blocks compress.
    pub(in crate::ab) fn quick() -> Self {
        Self { state: State::Lz4, out: vec![0; 8192] }
    }

    /// How many bytes `data` takes; what does not get shorter may take some more than itself.
    pub(in crate::ab) fn len(&mut self, data: &[u8]) -> Result<usize, CowError> {
        let out = &mut self.out;
        Ok(match &mut self.state {
            State::None => data.len(),
            State::Gz(state) => {
                state.reset();
                let status = state.compress(data, out, FlushCompress::Finish);
                if !matches!(status, Ok(Status::StreamEnd)) {
                    return Err(CowError::Compress { name: "zlib", detail: format!("{status:?}") });
                }
                usize::try_from(state.total_out()).expect("it was written to memory")
            }
            State::Brotli(quality) => brotli_len(data, *quality)?,
            State::Lz4 => {
                let made = lzzzz::lz4::compress(data, out, lzzzz::lz4::ACC_LEVEL_DEFAULT);
                let made = made.map_err(|error| CowError::Compress { name: "LZ4", detail: error.to_string() })?;
                made.min(data.len())
            }
            State::Zstd(context) => context.compress2(&mut out[..], data).map_err(zstd_error)?.min(data.len()),
        })
    }
}

fn zstd_error(code: usize) -> CowError {
    CowError::Compress { name: "Zstandard", detail: zstd::zstd_safe::get_error_name(code).to_owned() }
}

fn brotli_len(data: &[u8], quality: u32) -> Result<usize, CowError> {
    // Phones open a window of 2^22 bytes; for pieces of at most 2^18 it changes nothing but some bits of the header,
    // and a small one takes less time to set up.
    let params = brotli::enc::BrotliEncoderParams {
        quality: quality.cast_signed(),
        lgwin: 18,
        size_hint: data.len(),
        ..brotli::enc::BrotliEncoderParams::default()
    };
    let mut out = Count(0);
    brotli::BrotliCompress(&mut &*data, &mut out, &params)
        .map_err(|error| CowError::Compress { name: "Brotli", detail: error.to_string() })?;
    Ok(out.0 + 1)
}

/// Counts what is written.
struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0 += buf.len();
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
