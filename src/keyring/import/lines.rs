//! Lines of a file in which there may be secrets: nothing of it is left in memory afterwards.

use std::io::{self, Read};

use zeroize::Zeroizing;

/// The longest line, in bytes.
pub(super) const LONGEST: usize = 256 * 1024;

pub(super) struct Lines {
    source: Box<dyn Read + Send>,
    /// Never grows: a copy that nobody wipes would be left behind.
    buffer: Zeroizing<Vec<u8>>,
    /// What was read and not yet handed out.
    start: usize,
    end: usize,
    at_end: bool,
    /// In the middle of a line that was too long: the rest of it is to be dropped.
    dropping: bool,
    number: u64,
    bytes: u64,
}

pub(super) struct Line<'a> {
    /// From 1.
    pub(super) number: u64,
    /// Without its end; None if it is too long.
    pub(super) text: Option<&'a [u8]>,
}

impl Lines {
    pub(super) fn new(source: Box<dyn Read + Send>) -> Self {
        let buffer = Zeroizing::new(vec![0; LONGEST]);
        Self { source, buffer, start: 0, end: 0, at_end: false, dropping: false, number: 0, bytes: 0 }
    }

    /// How many lines were handed out.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// How many bytes were read.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            let waiting = self.buffer.get(self.start..self.end).unwrap_or_default();
            let line_end = memchr::memchr(b'\n', waiting).map(|at| self.start + at);
            let last = line_end.is_none() && self.at_end && (self.start < self.end || self.dropping);
            if line_end.is_some() || last {
                let end = line_end.unwrap_or(self.end);
                let (start, too_long) = (self.start, std::mem::take(&mut self.dropping));
                self.start = if line_end.is_some() { end + 1 } else { end };
                self.number += 1;
                let text = self.buffer.get(start..end).filter(|_| !too_long);
                return Ok(Some(Line { number: self.number, text }));
            }
            if self.at_end {
                return Ok(None);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.start == 0 && self.end == self.buffer.len() {
            self.dropping = true;
            self.end = 0;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        let read = loop {
            match self.source.read(free) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.end += read;
        self.bytes += read as u64;
        self.at_end = read == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives at most so many bytes at a time.
    struct Slowly(io::Cursor<Vec<u8>>, usize);

    impl Read for Slowly {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(self.1);
            self.0.read(&mut buffer[..most])
        }
    }

    fn all(content: &[u8], step: usize) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut lines = Lines::new(Box::new(Slowly(io::Cursor::new(content.to_vec()), step)));
        let mut all = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            all.push((line.number, line.text.map(<[u8]>::to_vec)));
        }
        assert_eq!(lines.bytes(), content.len() as u64);
        all
    }

    #[test]
    fn the_last_line_needs_no_end() {
        let lines = [(1, Some(b"a".to_vec())), (2, Some(Vec::new())), (3, Some(b"b".to_vec()))];
        assert_eq!(all(b"a\n\nb", 1), lines);
        assert_eq!(all(b"a\n\nb\n", 2), lines);
        assert_eq!(all(b"", 1), []);
    }

    #[test]
    fn a_line_too_long_is_one_line_and_those_behind_it_are_read() {
        for length in [LONGEST, LONGEST + 1, 2 * LONGEST, 3 * LONGEST + 7] {
            let mut content = vec![b'x'; length];
            assert_eq!(all(&content, 10_000), [(1, None)], "{length}");
            content.extend(b"\nafter");
            assert_eq!(all(&content, 10_000), [(1, None), (2, Some(b"after".to_vec()))], "{length}");
        }
        assert_eq!(all(&vec![b'x'; LONGEST - 1], 10_000).len(), 1);
    }

    proptest! {
        #[test]
        fn lines_are_those_between_the_line_ends(content in "[ab\n]{0,60}", step in 1_usize..9) {
            let read: Vec<Vec<u8>> = all(content.as_bytes(), step).into_iter().map(|(_, text)| text.unwrap()).collect();
            let expected: Vec<Vec<u8>> = content.split_terminator('\n').map(|line| line.as_bytes().to_vec()).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
