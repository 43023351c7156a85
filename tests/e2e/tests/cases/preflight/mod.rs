//! Preflight checks: admission asks the infra cluster what only the infra cluster knows.

mod defaults;
mod kubevirt_dry_run;
mod questions;
mod secrets;
mod updates;
