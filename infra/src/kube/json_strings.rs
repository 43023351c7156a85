//! Distinguishes strings from structure in streaming JSON.

/// Whether the stream is inside a string.
#[derive(Debug, Default)]
pub(crate) struct Strings {
    inside: bool,
    escaped: bool,
}

impl Strings {
    /// Whether this byte is part of a string: its content, or a quote. Advances the state.
    pub(crate) fn has(&mut self, byte: u8) -> bool {
        if !self.inside {
            self.inside = byte == b'"';
            return self.inside;
        }
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.inside = false,
            _ => {}
        }
        true
    }

    /// Whether the string goes on.
    pub(crate) fn is_inside(&self) -> bool {
        self.inside
    }
}
