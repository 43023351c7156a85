//! The objects that the controller watches in the user cluster, most of which other clients write: see [`crate::streams`]. The first byte
//! chooses the kind, the second how long chunks are.

use std::time::Duration;

use machinist_controller::cache::{
    Node, StoredMachine, StoredMachineDeployment, StoredMachineSet, VolumeAttachment,
};
use machinist_controller::csr::request::StoredRequest;
use machinist_infra::kube::answer::AnswerLimits;

use crate::Input;
use crate::streams::run as stream;

const SET: &str =
    r#","spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}}}}"#;

/// One input; [`Input::Rejected`] if it is too short.
///
/// # Panics
/// If a law is broken.
pub fn run(data: &[u8]) -> Input {
    let [kind, how, any @ ..] = data else {
        return Input::Rejected;
    };
    let limits = AnswerLimits::user(Duration::from_secs(10), Duration::from_secs(3));
    match kind % 6 {
        0 => stream::<StoredMachine>(limits, r#","spec":{}"#, *how, any),
        1 => stream::<StoredMachineSet>(limits, SET, *how, any),
        2 => stream::<StoredMachineDeployment>(limits, SET, *how, any),
        3 => stream::<Node>(limits, "", *how, any),
        4 => stream::<StoredRequest>(
            limits,
            r#","spec":{"request":"AAAA","signerName":"s"}"#,
            *how,
            any,
        ),
        _ => stream::<VolumeAttachment>(limits, r#","spec":{"nodeName":"n"}"#, *how, any),
    }
    Input::Taken
}
