//! The plan of a simulated component: writes in order, and when to requeue.

use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::objects::{Kind, same};

/// One request.
#[derive(Debug, Clone)]
pub enum Write {
    /// POST.
    Create(Kind, DynamicObject),
    /// PUT of metadata and spec, guarded by resourceVersion.
    Update(Kind, DynamicObject),
    /// PUT of the status, guarded by resourceVersion.
    Status(Kind, DynamicObject),
    /// POST of a pod's binding to a Node.
    Bind(DynamicObject, String),
    /// POST of a pod's eviction. It may be refused.
    Evict(DynamicObject),
    /// DELETE of just this object; of a pod as a kubelet does it, at once.
    Delete(Kind, DynamicObject),
    /// An Event about an object.
    Event {
        /// Kind of the object it is about.
        kind: Kind,
        /// The object.
        about: DynamicObject,
        /// `Normal` or `Warning`.
        class: &'static str,
        /// Reason.
        reason: &'static str,
        /// Message.
        message: String,
    },
}

/// Writes to do now, and when to requeue without a change.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// In order; the rest is dropped when one fails.
    pub writes: Vec<Write>,
    /// Only read without writes.
    pub again: Option<Duration>,
}

impl Plan {
    /// Nothing until something changes.
    pub fn idle() -> Self {
        Self::default()
    }

    /// Requeues after a while.
    pub fn after(wait: Duration) -> Self {
        Self {
            writes: Vec::new(),
            again: Some(wait),
        }
    }

    /// One write.
    pub fn one(write: Write) -> Self {
        Self {
            writes: vec![write],
            again: None,
        }
    }

    /// Adds a write.
    #[must_use]
    pub fn and(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    /// Writes the status if it differs from what the object has; else does `otherwise`.
    pub fn status_or(kind: Kind, object: &DynamicObject, status: Value, otherwise: Self) -> Self {
        if same(object.data.get("status").unwrap_or(&Value::Null), &status) {
            return otherwise;
        }
        Self::one(with_status(kind, object, status))
    }
}

/// A write of this status.
pub fn with_status(kind: Kind, object: &DynamicObject, status: Value) -> Write {
    let mut object = object.clone();
    object.data["status"] = status;
    Write::Status(kind, object)
}

/// An Event, as JSON of `v1`.
pub fn event(
    kind: Kind,
    about: &DynamicObject,
    class: &str,
    reason: &str,
    message: &str,
    now: &str,
) -> Value {
    let resource = kind.resource();
    json!({
        "involvedObject": {
            "apiVersion": resource.api_version, "kind": resource.kind, "name": about.name_any(),
            "namespace": about.namespace(), "uid": about.uid(),
        },
        "type": class, "reason": reason, "message": message,
        "source": {"component": "virtualmachine-controller"}, "reportingComponent": "virtualmachine-controller",
        "reportingInstance": "", "count": 1, "firstTimestamp": now, "lastTimestamp": now,
    })
}

/// How long a component has been in its present situation, by the simulator's clock: the times in objects are too coarse.
#[derive(Debug, Clone)]
pub struct Clock {
    now: Instant,
    situation: (String, Instant),
}

impl Clock {
    /// A clock without a situation.
    pub fn new(now: Instant) -> Self {
        Self {
            now,
            situation: (String::new(), now),
        }
    }

    /// Sets the present.
    pub fn tick(&mut self, now: Instant) {
        self.now = now;
    }

    /// Time since this situation began; a new situation starts again at zero.
    pub fn since(&mut self, situation: &str) -> Duration {
        if self.situation.0 != situation {
            self.situation = (situation.to_owned(), self.now);
        }
        self.now.duration_since(self.situation.1)
    }

    /// What is left of a time that the situation shall last.
    pub fn left(&mut self, situation: &str, lasts: Duration) -> Option<Duration> {
        let passed = self.since(situation);
        (passed < lasts).then(|| lasts.checked_sub(passed).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_situation_lasts_from_when_it_was_first_seen() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        let second = Duration::from_secs(1);
        assert_eq!(clock.left("a", second * 2), Some(second * 2));
        clock.tick(start + second);
        assert_eq!(clock.left("a", second * 2), Some(second));
        clock.tick(start + second * 2);
        assert_eq!(clock.left("a", second * 2), None);
        assert_eq!(clock.since("b"), Duration::ZERO);
        assert_eq!(clock.since("a"), Duration::ZERO);
    }
}
