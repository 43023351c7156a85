//! How many evictions were asked for under which version of a disruption budget: of many draining Nodes, no more ask than
//! may go. It saves requests; what may go, the API server decides.

use std::collections::HashMap;
use std::time::Duration;

use machinist_infra::cache::store::Key;
use tokio::time::Instant;

use super::budget::Budget;

/// An eviction that was accepted gives its budget a new version; should it not have, others may ask after this long.
const FORGOTTEN: Duration = Duration::from_secs(20);

/// What was asked for, by budget.
#[derive(Debug, Default)]
pub struct Claims(HashMap<Key, Claim>);

#[derive(Debug)]
struct Claim {
    version: String,
    begun: Instant,
    asked: i64,
}

impl Claims {
    /// Whether one more eviction may be asked for under this budget.
    pub fn claim(&mut self, budget: &Budget, now: Instant) -> bool {
        let Some(allowed) = budget.allowed else {
            return true;
        };
        let fresh = || Claim {
            version: budget.version().to_owned(),
            begun: now,
            asked: 0,
        };
        let claim = self.0.entry(Key::of(budget)).or_insert_with(fresh);
        if claim.version != budget.version() || now.duration_since(claim.begun) >= FORGOTTEN {
            *claim = fresh();
        }
        if claim.asked >= allowed {
            return false;
        }
        claim.asked += 1;
        true
    }

    /// What was claimed under this version of the budget was not used.
    pub fn unclaim(&mut self, budget: &Budget) {
        if let Some(claim) = self.0.get_mut(&Key::of(budget))
            && claim.version == budget.version()
        {
            claim.asked = claim.asked.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn budget(version: &str, allowed: i64) -> Budget {
        let budget = json!({
            "metadata": {"name": "web", "namespace": "ns", "resourceVersion": version},
            "status": {"disruptionsAllowed": allowed},
        });
        serde_json::from_value(budget).unwrap()
    }

    #[test]
    fn no_more_ask_than_may_go_until_the_budget_changes() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        let mut claim = |version, allowed| claims.claim(&budget(version, allowed), now);
        assert!(claim("1", 2) && claim("1", 2) && !claim("1", 2));
        assert!(claim("2", 1) && !claim("2", 1));
    }

    #[test]
    fn what_was_not_used_is_free_and_so_is_what_was_forgotten() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        let one = budget("1", 1);
        assert!(claims.claim(&one, now) && !claims.claim(&one, now));
        claims.unclaim(&one);
        assert!(claims.claim(&one, now) && !claims.claim(&one, now));
        claims.unclaim(&budget("0", 1));
        assert!(!claims.claim(&one, now), "of another version");
        assert!(claims.claim(&one, now + FORGOTTEN));
    }
}
