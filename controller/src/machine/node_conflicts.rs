//! What another controller takes from a Node again and again: it is put back more and more slowly, and reported once.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::runtime::backoff::{Backoff, Jitter};

/// Pauses before something is put back.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    longest: Duration::from_mins(5),
};

/// What has held for this long longer than its pause is not contested any more.
const HELD: Duration = Duration::from_mins(5);

/// Another client is reported when something is put back for the second time.
const REPORTED_AT: u32 = 3;

/// Something that a Machine puts onto its Node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// The label of that key.
    Label(String),
    /// The annotation of that key.
    Annotation(String),
    /// The taint of that key and effect.
    Taint(String, String),
    /// That no pod is scheduled onto it.
    Unschedulable,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(key) => write!(f, "label {key}"),
            Self::Annotation(key) => write!(f, "annotation {key}"),
            Self::Taint(key, effect) => write!(f, "taint {key}:{effect}"),
            Self::Unschedulable => f.write_str("spec.unschedulable"),
        }
    }
}

/// How long each must wait before it is put onto the Node again; what is not there may be put at once.
pub type Waits = BTreeMap<Item, Duration>;

/// What was put onto Nodes, by their UIDs.
#[derive(Debug, Default)]
pub struct NodeConflicts(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    by_node: HashMap<String, BTreeMap<Item, Put>>,
    /// How many Nodes there may be before those are forgotten on which everything holds.
    forget_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Put {
    times: u32,
    at: Instant,
    pause: Duration,
}

impl Put {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= self.pause + HELD
    }
}

impl NodeConflicts {
    /// What must still wait on the Node of that UID.
    pub fn waits(&self, node: &str, now: Instant) -> Waits {
        let memory = self.0.lock();
        let puts = memory.by_node.get(node).into_iter().flatten();
        let waits =
            puts.map(|(item, put)| (item.clone(), (put.at + put.pause).saturating_duration_since(now)));
        waits.filter(|(_, wait)| !wait.is_zero()).collect()
    }

    /// These have been put onto the Node of that UID; which of them another client is to be reported: once an episode.
    pub fn put(&self, node: &str, items: &[Item], now: Instant) -> Vec<Item> {
        let mut memory = self.0.lock();
        let (known, forget_at) = (memory.by_node.len(), memory.forget_at);
        if known >= forget_at {
            memory.by_node.retain(|_, puts| {
                puts.retain(|_, put| !put.is_over(now));
                !puts.is_empty()
            });
            memory.forget_at = (memory.by_node.len() * 2).max(64);
        }
        if items.is_empty() {
            return Vec::new();
        }
        let puts = memory.by_node.entry(node.to_owned()).or_default();
        let mut news = Vec::new();
        for item in items {
            let before = puts.get(item).filter(|put| !put.is_over(now));
            let times = before.map_or(1, |put| put.times.saturating_add(1));
            let pause = BACKOFF.pause(times - 1, Jitter::default());
            puts.insert(
                item.clone(),
                Put {
                    times,
                    at: now,
                    pause,
                },
            );
            if times == REPORTED_AT {
                news.push(item.clone());
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint() -> Item {
        Item::Taint("dedicated".to_owned(), "NoSchedule".to_owned())
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Another controller takes it away as soon as it is put; when it was put within so long, and how often that was reported.
    fn fight(node_conflicts: &NodeConflicts, start: Instant, long: Duration) -> (Vec<Instant>, usize) {
        let (mut puts, mut reported, mut now) = (Vec::new(), 0, start);
        while now < start + long {
            if let Some(wait) = node_conflicts.waits("node", now).get(&taint()) {
                now += *wait;
            } else {
                reported += node_conflicts.put("node", &[taint()], now).len();
                puts.push(now);
            }
        }
        (puts, reported)
    }

    #[test]
    fn what_is_taken_away_is_put_back_more_and_more_slowly_and_reported_once() {
        let (node_conflicts, start) = (NodeConflicts::default(), Instant::now());
        let (puts, reported) = fight(&node_conflicts, start, Duration::from_secs(10));
        assert_eq!((puts.len(), reported), (4, 1));
        let (puts, reported) = fight(&NodeConflicts::default(), start, Duration::from_hours(1));
        assert!((15..=22).contains(&puts.len()), "{} within an hour", puts.len());
        assert_eq!(reported, 1);
        let longest = puts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(
            (BACKOFF.longest * 4 / 5..=BACKOFF.longest * 6 / 5).contains(&longest),
            "{longest:?}"
        );
    }

    #[test]
    fn what_has_held_for_a_while_is_put_back_at_once_and_is_another_episode() {
        let (node_conflicts, start) = (NodeConflicts::default(), Instant::now());
        let (puts, _) = fight(&node_conflicts, start, Duration::from_mins(1));
        let held = *puts.last().unwrap() + BACKOFF.longest * 6 / 5 + HELD;
        assert!(node_conflicts.waits("node", held).is_empty());
        let (puts, reported) = fight(&node_conflicts, held, Duration::from_secs(10));
        assert_eq!((puts.len(), reported), (4, 1));
    }

    #[test]
    fn items_and_nodes_are_apart_and_what_holds_is_forgotten() {
        let (node_conflicts, start) = (NodeConflicts::default(), Instant::now());
        node_conflicts.put("node", &[taint()], start);
        assert_eq!(
            node_conflicts.waits("node", start).keys().collect::<Vec<_>>(),
            [&taint()]
        );
        assert!(node_conflicts.waits("another", start).is_empty());
        for number in 0..100 {
            node_conflicts.put(&number.to_string(), &[taint()], start);
        }
        let late = start + HELD + SECOND * 2;
        for number in 100..200 {
            node_conflicts.put(&number.to_string(), &[taint()], late);
        }
        assert!(node_conflicts.0.lock().by_node.len() <= 128);
        assert!(!node_conflicts.0.lock().by_node.contains_key("node"));
    }
}
