//! Preflight checks: admission asks the infra cluster what only the infra cluster knows.

mod defaults;
mod infra_requests;
mod kubevirt_dry_run;
mod secrets;
mod updates;
