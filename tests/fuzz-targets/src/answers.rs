//! Answers of infra clusters, whose servers any author of a Machine may choose: lists and watches, see [`crate::streams`],
//! and gets. The first byte chooses which, the second how long chunks are, and the
//! third the status of a single read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use http_body::Frame;
use kube::Api;
use machinist_infra::kube::answer::AnswerLimits;
use machinist_infra::kube::error::RemoteError;
use machinist_infra::kubevirt::objects::{Claim, DataVolume, Vm, Vmi};
use serde::Deserialize;

use crate::Input;
use crate::streams::{self, Kind, block_on, chunks, client};

/// The limit of an answer that is read as a whole: 2 MiB, and the last chunk.
const BYTES: usize = 3 * 1024 * 1024;
/// The limit of an error message: 1 KiB and an ellipsis.
const SHOWN: usize = 1024 + '…'.len_utf8();
const STATUSES: [u16; 8] = [200, 201, 302, 403, 404, 409, 410, 500];

/// One input; [`Input::Rejected`] if it is too short.
///
/// # Panics
/// If a law is broken.
pub fn run(data: &[u8]) -> Input {
    let [kind, how, any @ ..] = data else {
        return Input::Rejected;
    };
    let limits = AnswerLimits::infra(Duration::from_secs(10), Duration::from_secs(3));
    match kind % 8 {
        0 => streams::run::<Vm>(limits, "", *how, any),
        1 => streams::run::<Vmi>(limits, "", *how, any),
        2 => streams::run::<DataVolume>(limits, "", *how, any),
        3 => streams::run::<Claim>(limits, "", *how, any),
        4 => read::<Vm>(limits, *how, any),
        5 => read::<Vmi>(limits, *how, any),
        6 => read::<DataVolume>(limits, *how, any),
        _ => read::<Claim>(limits, *how, any),
    }
    Input::Taken
}

#[derive(Deserialize)]
struct Status {
    kind: String,
}

/// A single object, or other bytes.
fn read<K: Kind>(limits: AnswerLimits, how: u8, any: &[u8]) {
    let (status, any) = any.split_first().unwrap_or((&0, &[]));
    let status = STATUSES[usize::from(*status) % STATUSES.len()];
    let pulled = Arc::new(AtomicUsize::new(0));
    let mut body = stream::iter(chunks(any, how)).boxed();
    if how == 0xff {
        body = body.chain(stream::repeat(vec![b' '; 64 * 1024].into())).boxed();
    }
    let body = body.map(|chunk| Ok(Frame::data(chunk))).boxed();
    let answer = block_on(async {
        let api: Api<K> = Api::all(client(limits, vec![(status, body)], &pulled));
        api.get("x").await.map_err(RemoteError::from)
    });
    assert!(
        pulled.load(Ordering::Relaxed) <= BYTES,
        "more is read than may be"
    );
    let Err(error) = answer else {
        assert!(status < 400, "an object from an answer with the status {status}");
        assert!(how != 0xff, "an object from an answer without an end");
        return;
    };
    let shown = error.to_string();
    assert!(shown.len() <= SHOWN, "{} bytes are shown", shown.len());
    let is_status = serde_json::from_slice::<Status>(any).is_ok_and(|status| status.kind == "Status");
    if status >= 400 && !is_status {
        assert_eq!(shown, format!("HTTP {status}"), "the server's own text is shown");
    }
}
