//! Splits the response of a watch into events as it arrives: each is a line.

/// An event of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Its complete JSON.
    Whole(&'a [u8]),
    /// The start of the JSON of one that is too large.
    Oversized(&'a [u8]),
}

/// The line in progress.
#[derive(Debug)]
pub(super) struct Lines {
    largest: usize,
    line: Vec<u8>,
}

impl Lines {
    /// A parser for lines of up to this many bytes.
    pub(super) fn new(largest: usize) -> Self {
        Self {
            largest,
            line: Vec::new(),
        }
    }

    /// Number of buffered bytes of a line.
    pub(super) fn held(&self) -> usize {
        self.line.capacity()
    }

    /// Returns the lines that end in this chunk.
    pub(super) fn read(&mut self, chunk: &[u8], mut each: impl FnMut(Line<'_>)) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (piece, ends) = match piece.split_last() {
                Some((b'\n', piece)) => (piece, true),
                _ => (piece, false),
            };
            // One byte more than the maximum detects a line that is too large.
            let room = (self.largest + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if !ends {
                continue;
            }
            if self.line.len() > self.largest {
                each(Line::Oversized(&self.line));
            } else if !self.line.trim_ascii().is_empty() {
                each(Line::Whole(&self.line));
            }
            self.line = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn lines_are_found_wherever_chunks_end(#[values(1, 2, 3, 100)] chunk: usize) {
        let mut lines = Lines::new(5);
        let mut found = Vec::new();
        for chunk in b"12345\n\r\n\n123456789\n1\nrest".chunks(chunk) {
            lines.read(chunk, |line| {
                found.push(match line {
                    Line::Whole(line) => (true, String::from_utf8(line.to_vec()).unwrap()),
                    Line::Oversized(line) => (false, String::from_utf8(line.to_vec()).unwrap()),
                });
            });
        }
        let expected = [(true, "12345"), (false, "123456"), (true, "1")];
        assert_eq!(found, expected.map(|(whole, line)| (whole, line.to_owned())));
    }
}
