//! A client that fails at the n-th write.

use std::collections::VecDeque;

use machinist_infra::kube::error::RemoteError;

use super::world::{Answer, Kind, World};
use super::*;

/// What happens to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is stored, and the controller killed; another starts at once.
    Killed,
    /// The same; another sees to the Machine when all has happened that does without that. Its approvals do not wait.
    KilledForLong,
    /// It is stored, and the answer lost.
    LostAnswer,
    /// The same, and the watch reports it late.
    LostAnswerSeenLate,
    /// It is refused.
    Refused,
    /// It does not get there.
    NotSent,
}

/// Why a write did not return what was stored.
#[derive(Debug)]
pub(super) enum Failure {
    Killed(Fault),
    Error(RemoteError),
}

/// A client of both API servers, whose n-th writes fail.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) faults: VecDeque<(usize, Fault)>,
    pub(super) writes: usize,
    /// Each write, for whom a law fails.
    pub(super) trace: Vec<String>,
}

impl Client {
    pub(super) fn write(
        &mut self,
        world: &mut World,
        verb: &str,
        kind: Kind,
        request: impl FnOnce(&mut World) -> Answer<Value>,
    ) -> Result<Value, Failure> {
        self.writes += 1;
        let nth = self.writes;
        let fault = self
            .faults
            .pop_front_if(|(at, _)| *at == nth)
            .map(|(_, fault)| fault);
        let before = fault.map(|_| world.objects.clone());
        let answer = match fault {
            Some(Fault::Refused) => Err(422),
            Some(Fault::NotSent) => Err(503),
            _ => request(world),
        };
        let said = answer.as_ref().map_or_else(|code| *code, |_| 200);
        let at = world.now;
        self.trace.push(match fault {
            None => format!("{at} {nth:>2}: {verb}: {said}"),
            Some(fault) => format!("{at} {nth:>2}: {verb}: {said} {fault:?}"),
        });
        let unaccounted = world.unaccounted();
        assert_eq!(unaccounted, None, "not on record: {:#?}", self.trace);
        match (fault, before) {
            (Some(fault @ (Fault::Killed | Fault::KilledForLong)), _) => Err(Failure::Killed(fault)),
            (Some(Fault::LostAnswerSeenLate), Some(before)) => {
                world.is_seen_late(kind, before);
                Err(lost())
            }
            (Some(Fault::LostAnswer | Fault::NotSent), _) => Err(lost()),
            _ => {
                if answer.is_ok() {
                    world.is_seen_now(kind);
                }
                answer.map_err(refused)
            }
        }
    }
}

fn lost() -> Failure {
    Failure::Error(RemoteError::other("there is no answer"))
}

fn refused(code: u16) -> Failure {
    let status = kube::core::Status {
        code,
        message: format!("status {code}"),
        ..kube::core::Status::default()
    };
    Failure::Error(RemoteError::from(&kube::Error::Api(Box::new(status))))
}

/// What is gone already need not be deleted.
pub(super) fn gone(answer: Result<Value, Failure>) -> Result<(), Failure> {
    match answer {
        Err(Failure::Error(error)) if error.code() == Some(404) => Ok(()),
        other => other.map(drop),
    }
}
