//! Event routing: which keys an event in the user cluster enqueues, a file per kind of object.

mod machine;
mod machine_deployment;
mod machine_set;
mod node;
mod request;
#[cfg(test)]
mod tests;
mod token;
mod watches;

pub use watches::watches;
