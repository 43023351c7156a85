//! Field errors: the field, the problem, and the fix. All errors of an object are collected.

use std::fmt;

use super::did_you_mean::did_you_mean;

/// Path of a field as users write it: `spec.providerSpec.value.cloudProviderSpec.auth`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FieldPath(String);

impl FieldPath {
    /// A path of one or more dotted names.
    pub fn new(root: &str) -> Self {
        Self(root.to_owned())
    }

    /// `self.name`; a name that is not a plain identifier is written as `self[name]`, as Kubernetes does.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        let plain = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        // Every validated object builds hundreds of paths, so each is allocated only once.
        let mut path = String::with_capacity(self.0.len() + name.len() + 2);
        path.push_str(&self.0);
        if plain {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
        } else {
            path.push('[');
            path.push_str(name);
            path.push(']');
        }
        Self(path)
    }

    /// `self[index]`.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Kind of a field error; the text is the `reason` of a `metav1.StatusCause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The value is malformed or out of range.
    Invalid,
    /// The value is not of the JSON type that the field takes.
    Type,
    /// The value is missing.
    Required,
    /// The value is not one of a closed set.
    NotSupported,
    /// The field must not be set, or not be changed.
    Forbidden,
    /// The value names something that does not exist.
    NotFound,
}

impl ErrorKind {
    /// `reason` of the `StatusCause`.
    pub fn cause_reason(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::Type => "FieldValueTypeInvalid",
            Self::Required => "FieldValueRequired",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
        }
    }
}

/// One error in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Where.
    pub path: FieldPath,
    /// The kind of error.
    pub kind: ErrorKind,
    /// The problem and the fix, for a user. Never contains a secret.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Maximum number of errors, and of warnings, that are shown for one object.
pub const MAX_REPORTED: usize = 100;
/// Maximum length of one of them.
const MAX_TEXT: usize = 1024;

/// The first [`MAX_REPORTED`] texts, each up to 1 KiB, and `and N more`.
pub fn reported(texts: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let more = texts.len().saturating_sub(MAX_REPORTED);
    let mut shown: Vec<String> = texts.take(MAX_REPORTED).map(cut).collect();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown
}

/// The text, truncated if it is too long.
pub fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

/// All errors and warnings for one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Reasons to refuse.
    pub errors: Vec<FieldError>,
    /// Shown by kubectl; they refuse nothing.
    pub warnings: Vec<String>,
}

impl Report {
    /// An empty report.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are no errors.
    pub fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }

    /// Whether an error has been reported for exactly this field, so that a later rule can skip it.
    pub fn has_error_at(&self, path: &FieldPath) -> bool {
        self.errors.iter().any(|error| error.path == *path)
    }

    /// Adds all errors and warnings of `other`.
    pub fn extend(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.warnings.extend(other.warnings);
    }

    /// Adds an error.
    pub fn error(&mut self, path: &FieldPath, kind: ErrorKind, message: impl Into<String>) {
        self.errors.push(FieldError {
            path: path.clone(),
            kind,
            message: message.into(),
        });
    }

    /// Adds [`ErrorKind::Invalid`].
    pub fn invalid(&mut self, path: &FieldPath, message: impl Into<String>) {
        self.error(path, ErrorKind::Invalid, message);
    }

    /// Adds [`ErrorKind::Required`].
    pub fn required(&mut self, path: &FieldPath, message: impl Into<String>) {
        self.error(path, ErrorKind::Required, message);
    }

    /// Adds [`ErrorKind::Forbidden`].
    pub fn forbidden(&mut self, path: &FieldPath, message: impl Into<String>) {
        self.error(path, ErrorKind::Forbidden, message);
    }

    /// Adds [`ErrorKind::NotSupported`] naming the allowed values, and the nearest of them.
    pub fn not_supported(&mut self, path: &FieldPath, got: &str, allowed: &[&str]) {
        let list = allowed
            .iter()
            .map(|a| format!("{a:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        let hint = did_you_mean(got, allowed.iter().copied());
        self.error(
            path,
            ErrorKind::NotSupported,
            format!("{got:?} is not supported; allowed: {list}{hint}"),
        );
    }

    /// Adds a warning about a field.
    pub fn warn(&mut self, path: &FieldPath, message: impl fmt::Display) {
        self.warnings.push(format!("{path}: {message}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_kubernetes_writes_them() {
        let path = FieldPath::new("spec")
            .child("metadata")
            .child("annotations")
            .child("a.b/c");
        assert_eq!(path.to_string(), "spec.metadata.annotations[a.b/c]");
        assert_eq!(
            FieldPath::new("spec").child("taints").index(2).to_string(),
            "spec.taints[2]"
        );
    }
}
