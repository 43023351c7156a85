//! Removes deeply nested values from streaming JSON.
//!
//! `serde_json` rejects a whole document that is nested 128 levels deep anywhere, even in ignored fields: one object's
//! status or managed fields would hide every object in its list.

use bytes::{Bytes, BytesMut};

use crate::kube::json_strings::Strings;

/// Maximum nesting of a document; `null` replaces deeper values. A list adds two levels around its objects, a watch
/// event one.
const MAX_DEPTH: u32 = 120;

/// The position of the stream in a document.
#[derive(Debug, Default)]
pub(super) struct Pruner {
    /// Each line is a document of its own, as in a watch.
    lines: bool,
    depth: u32,
    strings: Strings,
    /// Bytes removed from the document.
    cut: usize,
}

impl Pruner {
    /// For one document, or for one per line.
    pub(super) fn new(lines: bool) -> Self {
        Self {
            lines,
            ..Self::default()
        }
    }

    /// Bytes removed from the document so far, which size limits on the rest do not count.
    pub(super) fn cut(&self) -> usize {
        self.cut
    }

    /// The next chunk without deeply nested values. It is copied only if it contains any.
    pub(super) fn prune(&mut self, chunk: &Bytes) -> Bytes {
        let mut pruned: Option<BytesMut> = None;
        // The start of the kept part.
        let mut kept = if self.depth > MAX_DEPTH { chunk.len() } else { 0 };
        for (at, byte) in chunk.iter().enumerate() {
            if self.lines && *byte == b'\n' {
                // A line that ended early does not affect the next.
                kept = kept.min(at);
                *self = Self::new(true);
                continue;
            }
            if self.strings.has(*byte) {
                continue;
            }
            match byte {
                b'{' | b'[' => {
                    self.depth = self.depth.saturating_add(1);
                    if self.depth == MAX_DEPTH + 1 {
                        let pruned = pruned.get_or_insert_default();
                        pruned.extend_from_slice(&chunk[kept..at]);
                        pruned.extend_from_slice(b"null");
                        kept = chunk.len();
                    }
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == MAX_DEPTH {
                        kept = at + 1;
                    }
                }
                _ => {}
            }
        }
        let pruned = match pruned {
            Some(mut pruned) => {
                pruned.extend_from_slice(&chunk[kept..]);
                pruned.freeze()
            }
            None => chunk.slice(kept..),
        };
        self.cut += chunk.len().saturating_sub(pruned.len());
        pruned
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn pruned(text: &str, chunk: usize, lines: bool) -> String {
        let mut pruner = Pruner::new(lines);
        let chunks = text.as_bytes().chunks(chunk.max(1));
        let kept = chunks.flat_map(|chunk| pruner.prune(&Bytes::copy_from_slice(chunk)));
        String::from_utf8(kept.collect()).unwrap()
    }

    /// `{"a":{"a": … 1 … }}`.
    fn nested(levels: usize) -> String {
        format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels))
    }

    #[test]
    fn what_is_left_out_of_a_document_is_counted() {
        let deep = Bytes::from(vec![b'['; 1000]);
        for (lines, left_out) in [(false, 1876), (true, 1876)] {
            let mut pruner = Pruner::new(lines);
            assert_eq!(pruner.prune(&deep).len(), 124, "120 levels and null");
            assert!(pruner.prune(&deep).is_empty());
            assert_eq!(pruner.cut(), left_out);
            pruner.prune(&Bytes::from_static(b"\n"));
            assert_eq!(pruner.cut() == 0, lines, "another line is another document");
        }
    }

    #[test]
    fn a_document_of_as_many_levels_as_are_kept_stays_as_it_is() {
        let text = nested(MAX_DEPTH as usize);
        assert_eq!(pruned(&text, 7, false), text);
    }

    #[test]
    fn null_stands_for_what_is_deeper_and_what_follows_is_kept() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let text = format!(r#"{{"before":"[{{\"","deep":{deep},"after":[1]}}"#);
        for chunk in [1, 3, 4096, text.len()] {
            let pruned: Value = serde_json::from_str(&pruned(&text, chunk, false)).unwrap();
            assert_eq!(
                (&pruned["before"], &pruned["after"]),
                (&json!("[{\""), &json!([1]))
            );
        }
    }

    #[test]
    fn a_line_that_ends_early_spoils_no_other() {
        let text = format!("{}\n{}\n", "[\"".repeat(300), nested(3));
        let pruned = pruned(&text, 5, true);
        assert_eq!(pruned.lines().last().unwrap(), nested(3));
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            Just(Value::Null)
        ];
        leaf.prop_recursive(6, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(".*", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_beside_it_is_kept(document in documents(), deep in 130usize..2_000, chunk in 1usize..64) {
            let text = format!(r#"{{"it":{document},"deep":{},"too":{document}}}"#, nested(deep));
            let pruned: Value = serde_json::from_str(&pruned(&text, chunk, false)).unwrap();
            prop_assert_eq!(&pruned["it"], &document);
            prop_assert_eq!(&pruned["too"], &document);
        }
    }
}
