//! Copies frames between QEMU and passt, all and in order but for those that a judge refuses; ends when either side ends.
//!
//! A *frame* on the wire is its length in four bytes, big end first, and then an Ethernet frame (passt(1), qemu(1) `-netdev stream`).
//! Not here: what may pass (`filter`).

use std::io::{self, Read, Write};

/// Longer than any frame passt or QEMU makes (64 KiB of IP and the Ethernet header); a longer one is the end of sense.
const MAX_FRAME: usize = 65_535 + 64;
/// What one read takes at most: several frames of the largest size.
const BUFFER: usize = 512 * 1024;

/// Copies until the source ends.
///
/// # Errors
/// Either side broke, or the source sent what is no frame.
pub(super) fn copy(mut from: impl Read, mut to: impl Write, mut passes: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    let mut out = Vec::with_capacity(BUFFER);
    loop {
        let count = match from.read(&mut buffer[filled..]) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        filled += count;
        out.clear();
        let mut at = 0;
        while let Some(prefix) = buffer[at..filled].first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
            if length > MAX_FRAME {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
            }
            let Some(framed) = buffer[at..filled].get(..4 + length) else { break };
            if passes(&framed[4..]) {
                out.extend_from_slice(framed);
            }
            at += framed.len();
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        to.write_all(&out)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes a few at a time.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn framed(frames: &[Vec<u8>]) -> Vec<u8> {
        frames.iter().flat_map(|frame| [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat()).collect()
    }

    #[test]
    fn frames_arrive_whole_and_refused_ones_do_not() {
        let frames: Vec<Vec<u8>> = (0_u8..100).map(|n| vec![n; 1 + usize::from(n) * 600]).collect();
        let kept: Vec<Vec<u8>> = frames.iter().filter(|frame| frame[0] % 3 != 0).cloned().collect();
        for step in [1, 7, 4096, usize::MAX] {
            let mut out = Vec::new();
            copy(Drip(&framed(&frames), step), &mut out, |frame| frame[0] % 3 != 0).unwrap();
            assert!(out == framed(&kept), "{step} bytes at a time");
        }
    }

    #[test]
    fn nonsense_ends_it() {
        assert!(copy(&[0xff_u8; 8][..], Vec::new(), |_| true).is_err());
    }
}
