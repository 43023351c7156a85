//! Comparison of Machine templates by what is made of them.
//!
//! A changed template replaces every node of a pool. So two templates are equal if and only if their Machines are: the
//! virtual machine as it is rendered, the user data and what operating-system-manager reads, labels, annotations and
//! taints of the Node, labels and annotations of the Machine. Notations and written-out defaults do not matter.
//!
//! ```
//! use machinist_shared::admission::template::equal;
//! let template = |taints| serde_json::json!({"spec": {"versions": {"kubelet": "1.33.4"}, "taints": taints}});
//! assert!(equal(&template(serde_json::json!(null)), &template(serde_json::json!([]))));
//! assert!(!equal(&template(serde_json::json!(null)), &template(serde_json::json!([{"key": "a"}]))));
//! ```

mod canonical;

use serde_json::Value;

use self::canonical::{canonical, in_guest};
use crate::api::raw;

/// Whether two values of `spec.template` mean the same, so that a change from one to the other replaces no Machine.
///
/// The label that distinguishes the MachineSets of a MachineDeployment does not count. Neither do the defaults of
/// admission for the location of the virtual machines: they come from the environment or repeat the location.
pub fn equal(a: &Value, b: &Value) -> bool {
    a == b || canonical(a) == canonical(b)
}

/// Whether the Machines of one template can become those of the other without a new virtual machine.
///
/// Only values of the Node may change: its labels, annotations and taints, which the guest sets at registration and
/// never again. Region and zone are not among them, because volumes are bound to those. Neither are kubelet settings in
/// annotations, because a guest reads them once. The Machine's own labels and annotations are on the virtual machine as
/// well, except timeouts, which only Machinist reads.
pub fn equal_in_place(a: &Value, b: &Value) -> bool {
    a == b || in_guest(a) == in_guest(b)
}

/// The template in one form for all that are [`equal`], to be compared and kept.
pub fn form(template: &Value) -> Box<str> {
    raw::canonical(&canonical(template)).into()
}

/// A hash of the template, the same for templates that are [`equal`]. It only becomes part of the names of MachineSets,
/// so it does not have to match machine-controller's hash.
pub fn hash(template: &Value) -> u32 {
    let fnv = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    form(template).bytes().fold(2_166_136_261, fnv)
}

/// The suffix of a MachineSet's name: the hash, in characters that form no words.
pub fn name_suffix(hash: u32) -> String {
    let safe = |digit: char| match digit {
        '0'..='5' => char::from_u32(u32::from(digit) + 4).unwrap_or(digit),
        '6' => 'b',
        '7' => 'c',
        '8' => 'd',
        _ => 'f',
    };
    hash.to_string().chars().map(safe).collect()
}

#[cfg(test)]
mod tests;
