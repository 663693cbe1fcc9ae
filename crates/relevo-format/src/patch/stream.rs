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

/// Best quality of brotli.
const BEST: i32 = 11;
/// One that takes little longer than bzip2.
const QUICK: i32 = 5;
/// The last one before time runs away.
const GOOD: i32 = 9;
/// Processor time of brotli at its best for a byte that is not within a long run, in nanoseconds; measured from 1,300 to
/// 2,000.
const BEST_NS: u64 = 1600;
/// Bytes of a run that brotli at its best steps over.
const LONG_RUN: usize = 325;

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
        Codec::Brotli => brotli(raw, BEST),
    }
}

fn brotli(raw: &[u8], quality: i32) -> Vec<u8> {
    let bits = (usize::BITS - raw.len().leading_zeros()).clamp(WINDOW.0, WINDOW.1);
    let params = BrotliEncoderParams {
        quality,
        lgwin: bits.cast_signed(),
        size_hint: raw.len(),
        ..BrotliEncoderParams::default()
    };
    let mut out = Vec::new();
    brotli::BrotliCompress(&mut &*raw, &mut out, &params).expect("memory can be read and written");
    out
}

/// Compresses with the codec that does it better, as far as the effort goes; `saved` are the hundredths that brotli at
/// its best makes of it less than the quick ways.
pub(super) fn smallest(raw: &[u8], saved: u64, effort: Effort) -> (Codec, Vec<u8>) {
    let bzip2 = compress(Codec::Bzip2, raw);
    let quick = brotli(raw, QUICK);
    let is_worth_it = || {
        let saved = quick.len().min(bzip2.len()) as u64 * saved / 100;
        let nanoseconds = u128::from(BEST_NS * unlike(raw));
        u128::from(saved) * 1_000_000_000 >= nanoseconds * u128::from(effort.saved_per_second)
    };
    // At its best it was never a quarter smaller than when it was quick. bzip2 is that far ahead on few bytes far apart
    // in many zeros.
    let brotli = if bzip2.len() < quick.len() / 10 * 7 {
        quick
    } else if is_worth_it() {
        brotli(raw, BEST)
    } else if bzip2.len() < quick.len() / 10 * 9 {
        quick
    } else {
        brotli(raw, GOOD)
    };
    if bzip2.len() < brotli.len() { (Codec::Bzip2, bzip2) } else { (Codec::Brotli, brotli) }
}

/// Bytes that are not within a long run of equal ones.
fn unlike(raw: &[u8]) -> u64 {
    let runs = raw.chunk_by(|a, b| a == b).map(<[u8]>::len);
    runs.filter(|&len| len < LONG_RUN).sum::<usize>() as u64
}

/// How long a stream is after the fastest compression there is here.
pub(super) fn quick_len(raw: &[u8]) -> usize {
    zstd::bulk::compress(raw, 1).map_or(raw.len(), |out| out.len())
}
