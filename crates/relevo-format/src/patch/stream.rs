//! Compressed streams inside of patches.

use brotli::{BrotliDecompressStream, BrotliResult, BrotliState, HeapAlloc, HuffmanCode, enc::BrotliEncoderParams};
use bzip2::{Action, Compress, Compression, Decompress, Status};

use super::bsdiff::Effort;

/// How a stream is compressed; the number is the byte in a `BSDF2` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// bzip2.
    Bzip2 = 1,
    /// Brotli with a window of at most 16 MiB.
    Brotli = 2,
}

/// What is wrong with a compressed stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// It ends before the bytes that are asked of it.
    #[error("it ends too early")]
    Truncated,
    /// It decodes to more than is asked of it, or bytes follow its end.
    #[error("it goes on after its last byte that is used")]
    Surplus,
    /// What the bzip2 decoder says.
    #[error("it is no bzip2")]
    Bzip2(#[source] bzip2::Error),
    /// The brotli decoder does not know it.
    #[error("it is no brotli")]
    Brotli,
}

type Brotli = BrotliState<HeapAlloc<u8>, HeapAlloc<u32>, HeapAlloc<HuffmanCode>>;

/// Decodes a stream as far as it is asked to.
pub(super) struct Decoder<'a> {
    input: &'a [u8],
    state: State,
    /// Whether anything was asked of it.
    used: bool,
    ended: bool,
}

enum State {
    Bzip2(Decompress),
    Brotli(Box<Brotli>),
}

impl<'a> Decoder<'a> {
    pub(super) fn new(codec: Codec, input: &'a [u8]) -> Self {
        let state = match codec {
            Codec::Bzip2 => State::Bzip2(Decompress::new(false)),
            // Strict: windows over 16 MiB, which AOSP's reader does not know, are refused.
            Codec::Brotli => State::Brotli(Box::new(Brotli::new_strict(
                HeapAlloc::new(0),
                HeapAlloc::new(0),
                HeapAlloc::new(HuffmanCode::default()),
            ))),
        };
        Self { input, state, used: false, ended: false }
    }

    /// Decodes exactly as many bytes as `buf` has.
    pub(super) fn fill(&mut self, mut buf: &mut [u8]) -> Result<(), StreamError> {
        while !buf.is_empty() {
            let made = self.decode(buf)?;
            if made == 0 {
                return Err(StreamError::Truncated);
            }
            buf = &mut buf[made..];
        }
        Ok(())
    }

    /// Checks that the stream ends here. One that nothing was asked of may be empty, as AOSP's reader has it.
    pub(super) fn finish(mut self) -> Result<(), StreamError> {
        if !self.used && self.input.is_empty() {
            return Ok(());
        }
        if self.decode(&mut [0])? > 0 || !self.input.is_empty() {
            return Err(StreamError::Surplus);
        }
        Ok(())
    }

    /// Decodes some bytes into `buf`, which is not empty; 0 at the end.
    pub(super) fn decode(&mut self, buf: &mut [u8]) -> Result<usize, StreamError> {
        self.used = true;
        if self.ended {
            return Ok(0);
        }
        match &mut self.state {
            State::Bzip2(state) => loop {
                let before = (state.total_in(), state.total_out());
                let status = state.decompress(self.input, buf).map_err(StreamError::Bzip2)?;
                let count = |after: u64, before: u64| usize::try_from(after - before).unwrap_or(usize::MAX);
                let (read, made) = (count(state.total_in(), before.0), count(state.total_out(), before.1));
                self.input = self.input.get(read..).unwrap_or_default();
                self.ended = status == Status::StreamEnd;
                if made > 0 || self.ended {
                    return Ok(made);
                }
                if read == 0 {
                    return Err(StreamError::Truncated);
                }
            },
            State::Brotli(state) => {
                let (mut left, mut read) = (self.input.len(), 0);
                let (mut room, mut made) = (buf.len(), 0);
                let result =
                    BrotliDecompressStream(&mut left, &mut read, self.input, &mut room, &mut made, buf, &mut 0, state);
                self.input = self.input.get(read..).unwrap_or_default();
                match result {
                    BrotliResult::ResultSuccess => self.ended = true,
                    BrotliResult::NeedsMoreOutput => {}
                    BrotliResult::NeedsMoreInput if made == 0 => return Err(StreamError::Truncated),
                    BrotliResult::NeedsMoreInput => {}
                    BrotliResult::ResultFailure => return Err(StreamError::Brotli),
                }
                Ok(made)
            }
        }
    }
}

/// Smallest and largest window of brotli, as powers of two.
const WINDOW: (u32, u32) = (16, 24);

/// How hard brotli tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quality {
    /// 5, which takes little longer than bzip2 and tells how small the others would be.
    Quick,
    /// 9.5: quality 10 as it would search at 9, a tenth of the time of the best and smaller than what 10 makes.
    Good,
    /// 11.
    Best,
}

/// Bytes of a run that brotli at its best steps over.
const LONG_RUN: usize = 325;

/// What a stream is: how much better compression makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    /// Integers of 8 bytes.
    Control,
    /// Differences, mostly zeros.
    Diff,
    /// New bytes.
    Extra,
    /// An ensemble patch of zucchini, which is always brotli's.
    Ensemble,
}

/// What brotli does to one kind of stream, as measured on 200 streams of two corpora; where they differ much, the middle.
struct Measured {
    /// Length at [`Quality::Good`], in hundredths of the quick one.
    good: usize,
    /// The same at [`Quality::Best`].
    best: usize,
    /// Processor time of a byte at [`Quality::Best`] that is not within a long run, in nanoseconds.
    nanoseconds: u64,
}

impl Contents {
    const fn measured(self) -> Measured {
        match self {
            Self::Control => Measured { good: 90, best: 83, nanoseconds: 1100 },
            // 82 to 97, and 73 to 90.
            Self::Diff => Measured { good: 91, best: 84, nanoseconds: 1900 },
            Self::Extra => Measured { good: 94, best: 91, nanoseconds: 1200 },
            Self::Ensemble => Measured { good: 95, best: 91, nanoseconds: 1300 },
        }
    }
}

/// Compresses as far as the codec can.
pub(super) fn compress(codec: Codec, raw: &[u8]) -> Vec<u8> {
    match codec {
        Codec::Bzip2 => {
            let mut state = Compress::new(Compression::best(), 30);
            let mut out = Vec::with_capacity(raw.len() / 4 + 64);
            loop {
                let read = usize::try_from(state.total_in()).expect("it has read from a slice");
                out.reserve(4096);
                let status = state.compress_vec(&raw[read..], &mut out, Action::Finish);
                if status.expect("a new stream takes its input and its end") == Status::StreamEnd {
                    return out;
                }
            }
        }
        Codec::Brotli => brotli(raw, Quality::Best),
    }
}

fn brotli(raw: &[u8], quality: Quality) -> Vec<u8> {
    let (quality, q9_5) = match quality {
        Quality::Quick => (5, false),
        Quality::Good => (10, true),
        Quality::Best => (11, false),
    };
    let bits = (usize::BITS - raw.len().leading_zeros()).clamp(WINDOW.0, WINDOW.1);
    let params = BrotliEncoderParams {
        quality,
        q9_5,
        lgwin: bits.cast_signed(),
        size_hint: raw.len(),
        ..BrotliEncoderParams::default()
    };
    let mut out = Vec::new();
    brotli::BrotliCompress(&mut &*raw, &mut out, &params).expect("memory can be read and written");
    out
}

/// What quick ways make of a stream.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    contents: Contents,
    raw_len: usize,
    /// Bytes that are not within a long run of equal ones.
    unlike: u64,
    bzip2: Option<Vec<u8>>,
    quick: Vec<u8>,
}

impl Trial {
    pub(super) fn new(raw: &[u8], contents: Contents) -> Self {
        let bzip2 = (contents != Contents::Ensemble).then(|| compress(Codec::Bzip2, raw));
        let runs = raw.chunk_by(|a, b| a == b).map(<[u8]>::len);
        let unlike = runs.filter(|&len| len < LONG_RUN).sum::<usize>() as u64;
        Self { contents, raw_len: raw.len(), unlike, bzip2, quick: brotli(raw, Quality::Quick) }
    }

    fn bzip2_len(&self) -> usize {
        self.bzip2.as_ref().map_or(usize::MAX, Vec::len)
    }

    /// The quality of brotli that is worth its time, and about how long the stream will be.
    fn choose(&self, effort: Effort) -> (Quality, usize) {
        let Measured { good, best, nanoseconds } = self.contents.measured();
        let (bzip2, quick) = (self.bzip2_len(), self.quick.len());
        let (good, best) = (quick * good / 100, quick * best / 100);
        if effort == Effort::BEST {
            return (Quality::Best, best.min(bzip2));
        }
        // What hardly gets smaller will not do so by more time.
        if quick > self.raw_len / 100 * 97 {
            return (Quality::Quick, quick.min(bzip2));
        }
        let saved = good.min(bzip2).saturating_sub(best) as u128;
        let time = u128::from(nanoseconds * self.unlike);
        if saved > 0 && saved * 1_000_000_000 >= time * u128::from(effort.saved_per_second) {
            (Quality::Best, best)
        } else if bzip2 / 86 < quick / 100 {
            // bzip2 is far ahead on few bytes far apart in many zeros, and on control streams.
            (Quality::Quick, bzip2)
        } else {
            (Quality::Good, good.min(bzip2))
        }
    }

    /// About how long [`Trial::finish`] makes it.
    pub(super) fn estimate(&self, effort: Effort) -> usize {
        self.choose(effort).1
    }

    /// Compresses with the codec that does it better, as far as the effort goes; `raw` is what was tried.
    pub(super) fn finish(self, raw: &[u8], effort: Effort) -> (Codec, Vec<u8>) {
        let brotli = match self.choose(effort).0 {
            Quality::Quick => self.quick,
            quality => brotli(raw, quality),
        };
        match self.bzip2 {
            Some(bzip2) if bzip2.len() < brotli.len() => (Codec::Bzip2, bzip2),
            _ => (Codec::Brotli, brotli),
        }
    }
}
