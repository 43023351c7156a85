//! Splits the JSON of a list into objects as it arrives, so that at most one object is buffered at a time.

use crate::kube::json_strings::Strings;

/// Maximum bytes of a list apart from its objects.
const MAX_METADATA_BYTES: usize = 64 * 1024;

/// An object this many times above the maximum size is treated as endless.
const ENDLESS_FACTOR: usize = 4;

/// An object of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item<'a> {
    /// Its complete JSON.
    Whole(&'a [u8]),
    /// The start of the JSON of one that is too large.
    Oversized(&'a [u8]),
}

/// The response is not the JSON of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not a list of Kubernetes objects")]
pub(super) struct NotAList;

/// The current part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Before the list, between its fields, or after it.
    Between,
    /// The value of an ignored field.
    Other,
    /// `metadata`.
    Metadata,
    /// `items`.
    Items,
}

/// The position of the stream in a list.
#[derive(Debug)]
pub(super) struct Items {
    largest: usize,
    depth: u32,
    strings: Strings,
    part: Part,
    /// The last string at the first level: a key, or an ignored value.
    key: Vec<u8>,
    metadata: Vec<u8>,
    item: Vec<u8>,
    /// Length of the whole object, including bytes that are not buffered.
    length: usize,
    beside: usize,
    ended: bool,
}

impl Items {
    /// A parser at the start of a list with objects of up to this many bytes.
    pub(super) fn new(largest: usize) -> Self {
        Self {
            largest,
            depth: 0,
            strings: Strings::default(),
            part: Part::Between,
            key: Vec::new(),
            metadata: Vec::new(),
            item: Vec::new(),
            length: 0,
            beside: 0,
            ended: false,
        }
    }

    /// Number of buffered bytes of an object.
    pub(super) fn held(&self) -> usize {
        self.item.capacity()
    }

    /// Returns the objects that end in this chunk.
    pub(super) fn read(&mut self, chunk: &[u8], mut each: impl FnMut(Item<'_>)) -> Result<(), NotAList> {
        // The start of the current object or the metadata in the chunk.
        let mut from = 0;
        for (at, byte) in chunk.iter().enumerate() {
            let was_inside = self.strings.is_inside();
            if self.strings.has(*byte) {
                match (was_inside, self.depth) {
                    (false, 0) => return Err(NotAList),
                    (false, 1) => self.key.clear(),
                    (true, 1) if self.strings.is_inside() => {
                        self.key.push(*byte);
                        self.count(1)?;
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'{' | b'[' => {
                    match self.depth {
                        0 if *byte == b'{' && !self.ended => {}
                        0 => return Err(NotAList),
                        1 => {
                            self.part = match (self.key.as_slice(), byte) {
                                (b"items", b'[') => Part::Items,
                                (b"metadata", b'{') => Part::Metadata,
                                _ => Part::Other,
                            };
                            from = at;
                        }
                        2 if self.part == Part::Items => from = at,
                        _ => {}
                    }
                    self.depth += 1;
                }
                b'}' | b']' => {
                    self.depth = self.depth.checked_sub(1).ok_or(NotAList)?;
                    match (self.depth, self.part) {
                        (0, _) => self.ended = true,
                        (1, Part::Other) => self.count(at - from)?,
                        (1, Part::Metadata) => {
                            self.count(at - from)?;
                            self.metadata.extend_from_slice(&chunk[from..=at]);
                        }
                        (2, Part::Items) => {
                            self.hold(&chunk[from..=at]);
                            each(if self.item.len() > self.largest {
                                Item::Oversized(&self.item)
                            } else {
                                Item::Whole(&self.item)
                            });
                            self.item = Vec::new();
                            self.length = 0;
                        }
                        _ => {}
                    }
                    if self.depth == 1 {
                        self.part = Part::Between;
                    }
                }
                _ if self.depth == 0 && !byte.is_ascii_whitespace() => return Err(NotAList),
                _ => {}
            }
        }
        match self.part {
            Part::Items if self.depth > 2 => {
                self.hold(&chunk[from..]);
                // No API server stores such an object: it is endless.
                if self.length > ENDLESS_FACTOR * self.largest {
                    return Err(NotAList);
                }
            }
            Part::Metadata => {
                self.count(chunk.len() - from)?;
                self.metadata.extend_from_slice(&chunk[from..]);
            }
            Part::Other => self.count(chunk.len() - from)?,
            Part::Items | Part::Between => {}
        }
        Ok(())
    }

    /// The list's metadata, once the list is complete.
    pub(super) fn end(self) -> Result<Vec<u8>, NotAList> {
        if self.ended {
            Ok(self.metadata)
        } else {
            Err(NotAList)
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), NotAList> {
        self.beside += bytes;
        if self.beside > MAX_METADATA_BYTES {
            Err(NotAList)
        } else {
            Ok(())
        }
    }

    /// Buffers one byte more than the maximum, to detect an object that is too large.
    fn hold(&mut self, piece: &[u8]) {
        self.length += piece.len();
        let room = (self.largest + 1).saturating_sub(self.item.len());
        self.item.extend_from_slice(&piece[..piece.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(
        text: &str,
        chunk: usize,
        largest: usize,
    ) -> Result<(Vec<String>, Vec<String>, String), NotAList> {
        let mut items = Items::new(largest);
        let (mut whole, mut oversized) = (Vec::new(), Vec::new());
        for chunk in text.as_bytes().chunks(chunk) {
            items.read(chunk, |item| match item {
                Item::Whole(text) => whole.push(String::from_utf8(text.to_vec()).unwrap()),
                Item::Oversized(text) => oversized.push(String::from_utf8_lossy(text).into_owned()),
            })?;
        }
        Ok((whole, oversized, String::from_utf8(items.end()?).unwrap()))
    }

    #[test]
    fn an_object_that_is_too_large_is_left_out_and_those_beside_it_are_not() {
        let large = "x".repeat(3_500);
        let text = json!({
            "kind": "List", "metadata": {"continue": "c"},
            "items": [{"a": 1}, {"metadata": {"name": "large"}, "x": large}, {"b": [{}]}],
        })
        .to_string();
        for chunk in [1, 100, 1_000_000] {
            let (whole, oversized, metadata) = read(&text, chunk, 1_000).unwrap();
            assert_eq!(whole, [r#"{"a":1}"#, r#"{"b":[{}]}"#]);
            assert_eq!(metadata, r#"{"continue":"c"}"#);
            assert_eq!(oversized.len(), 1);
            assert!(
                oversized[0].starts_with(r#"{"metadata":{"name":"large"}"#) && oversized[0].len() == 1_001
            );
        }
    }

    #[test]
    fn a_field_of_an_object_that_is_named_like_the_lists_is_not_the_lists() {
        let text = r#"{"x":{"items":[{"a":1}]},"items":[{"items":[{"b":1}],"metadata":{}}],"y":"items","z":[{"c":1}]}"#;
        let (whole, _, metadata) = read(text, 3, 1_000).unwrap();
        assert_eq!(whole, [r#"{"items":[{"b":1}],"metadata":{}}"#]);
        assert_eq!(metadata, "");
    }

    #[rstest::rstest]
    #[case::nothing("")]
    #[case::text("\"items\"")]
    #[case::an_array("[{}]")]
    #[case::no_json("xxxxxxxx")]
    #[case::half_of_it(r#"{"items":[{"a":1}"#)]
    #[case::two_of_them(r#"{"items":[]}{"items":[]}"#)]
    #[case::brackets(r#"{"items":]]]]}"#)]
    fn what_is_no_list_is_refused(#[case] text: &str) {
        assert_eq!(read(text, 4, 1_000), Err(NotAList));
    }

    #[test]
    fn a_list_has_not_much_beside_its_objects() {
        let much = "x".repeat(MAX_METADATA_BYTES + 1);
        for beside in [
            format!(r#"{{"{much}":1}}"#),
            format!(r#"{{"a":"{much}"}}"#),
            format!(r#"{{"metadata":{{"a":"{much}"}}}}"#),
            format!(r#"{{"other":["{much}"]}}"#),
        ] {
            assert_eq!(read(&beside, 1_000, 1_000), Err(NotAList));
        }
    }

    #[test]
    fn an_object_that_does_not_end_ends_the_list() {
        let mut items = Items::new(1_000);
        let begun = items.read(br#"{"items":[{"a":""#, |_| {});
        assert_eq!(begun, Ok(()));
        let read = (0..100)
            .map(|_| items.read(&[b'x'; 100], |_| {}))
            .find(Result::is_err);
        assert_eq!(read, Some(Err(NotAList)));
        assert!(items.held() < 2_500);
    }

    proptest! {
        #[test]
        fn every_object_is_found_wherever_chunks_end(
            texts in prop::collection::vec(".{0,40}", 0..8),
            chunk in 1usize..200,
            pretty in any::<bool>(),
        ) {
            let objects: Vec<Value> = texts.iter().map(|text| json!({"metadata": {"name": text}, "items": [text, [text]]})).collect();
            let list = json!({"apiVersion": "v1", "items": objects, "metadata": {"resourceVersion": "7"}});
            let text = if pretty { serde_json::to_string_pretty(&list).unwrap() } else { list.to_string() };
            let (whole, oversized, metadata) = read(&text, chunk, 100_000).unwrap();
            let found: Vec<Value> = whole.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
            prop_assert_eq!(found, objects);
            prop_assert!(oversized.is_empty());
            prop_assert_eq!(serde_json::from_str::<Value>(&metadata).unwrap(), json!({"resourceVersion": "7"}));
        }
    }
}
