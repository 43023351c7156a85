//! The process: what it consists of, how it begins and ends, and what it serves over HTTP.

pub mod run;
pub mod server;
pub mod tasks;
