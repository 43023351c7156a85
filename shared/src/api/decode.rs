//! Decodes JSON as leniently as Go clients do, and reports all errors at once.
//!
//! Keys match without regard to letter case (the exact spelling wins), `null` is the same as absent, and a value of
//! the wrong JSON type is an error with its path. Whether an unknown key is an error or a warning is up to the caller.
//!
//! ```
//! use machinist_shared::api::{decode::Fields, field::{FieldPath, Report}};
//! let (value, mut report) = (serde_json::json!({"cidr": "10.0.0.0/8", "gatway": "10.0.0.1"}), Report::new());
//! if let Some(mut fields) = Fields::of(&value, FieldPath::new("network"), &mut report) {
//!     let cidr = fields.take("cidr").string(&mut report);
//!     let gateway = fields.take("gateway").string(&mut report);
//!     fields.deny_unknown(&mut report);
//!     assert_eq!((cidr.as_deref(), gateway), (Some("10.0.0.0/8"), None));
//! }
//! assert_eq!(report.errors[0].to_string(), "network.gatway: unknown field \"gatway\"; did you mean \"gateway\"?");
//! ```

use serde_json::{Map, Value};

use crate::api::did_you_mean::instead_of;
use crate::api::field::{ErrorKind, FieldPath, MAX_REPORTED, Report};

/// The keys of one JSON object, read one by one.
#[derive(Debug)]
pub struct Fields<'a> {
    path: FieldPath,
    map: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of `value`; `null` has none; anything but an object is reported and returns `None`.
    pub fn of(value: &'a Value, path: FieldPath, report: &mut Report) -> Option<Self> {
        match value {
            Value::Null => Some(Self {
                path,
                map: None,
                known: Vec::new(),
            }),
            Value::Object(map) => Some(Self {
                path,
                map: Some(map),
                known: Vec::with_capacity(12),
            }),
            other => {
                wrong_type(&path, other, "an object", report);
                None
            }
        }
    }

    /// The path of the object itself.
    pub fn path(&self) -> &FieldPath {
        &self.path
    }

    /// The field `key`, which counts as known from now on.
    pub fn take(&mut self, key: &'static str) -> Field<'a> {
        let found = self.map.and_then(|map| {
            // Without an object there are no unknown keys.
            self.known.push(key);
            map.get(key).or_else(|| {
                let mut entries = map.iter();
                entries.find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v)
            })
        });
        let path = self.path.child(key);
        Field {
            path,
            value: found.filter(|v| !v.is_null()),
        }
    }

    /// Reports every key that was not taken as an error.
    pub fn deny_unknown(self, report: &mut Report) {
        for (path, message) in self.unknown() {
            report.invalid(&path, message);
        }
    }

    /// Reports every key that was not taken as a warning.
    pub fn warn_unknown(self, report: &mut Report) {
        for (path, message) in self.unknown() {
            report.warn(&path, message);
        }
    }

    fn unknown(&self) -> Vec<(FieldPath, String)> {
        self.map
            .into_iter()
            .flatten()
            .filter(|(key, _)| !self.known.iter().any(|known| known.eq_ignore_ascii_case(key)))
            .enumerate()
            .map(|(nth, (key, _))| {
                let hint = if nth < MAX_REPORTED {
                    instead_of(key, self.known.iter().copied())
                } else {
                    // Users read at most the first hundred, and each costs time.
                    String::new()
                };
                (self.path.child(key), format!("unknown field {key:?}{hint}"))
            })
            .collect()
    }
}

/// One field: its path, and its value unless absent or `null`.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    /// Where it is.
    pub path: FieldPath,
    /// Its value; never `Some(Null)`.
    pub value: Option<&'a Value>,
}

impl<'a> Field<'a> {
    /// A string.
    pub fn string(&self, report: &mut Report) -> Option<String> {
        self.typed("a string", report, |v| v.as_str().map(str::to_owned))
    }

    /// A boolean.
    pub fn bool(&self, report: &mut Report) -> Option<bool> {
        self.typed("a boolean", report, Value::as_bool)
    }

    /// An integer.
    pub fn integer(&self, report: &mut Report) -> Option<i64> {
        self.typed("an integer", report, Value::as_i64)
    }

    /// An object's fields.
    pub fn object(&self, report: &mut Report) -> Option<Fields<'a>> {
        Fields::of(self.value?, self.path.clone(), report)
    }

    /// The items of a list, each with its path. Items may be `null`: their value is then absent.
    pub fn items(&self, report: &mut Report) -> Option<Vec<Field<'a>>> {
        let items = self.typed("a list", report, |v| v.as_array())?;
        let item = |(i, v): (usize, &'a Value)| Field {
            path: self.path.index(i),
            value: Some(v).filter(|v| !v.is_null()),
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A list of strings; other items are reported and skipped.
    pub fn strings(&self, report: &mut Report) -> Option<Vec<String>> {
        let items = self.items(report)?;
        Some(items.iter().filter_map(|item| item.string(report)).collect())
    }

    fn typed<T>(
        &self,
        what: &str,
        report: &mut Report,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.value?;
        let typed = read(value);
        if typed.is_none() {
            wrong_type(&self.path, value, what, report);
        }
        typed
    }
}

/// Name of a value's JSON type, with its article.
pub fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn wrong_type(path: &FieldPath, got: &Value, want: &str, report: &mut Report) {
    report.error(
        path,
        ErrorKind::Type,
        format!("must be {want}, not {}", json_type(got)),
    );
}
