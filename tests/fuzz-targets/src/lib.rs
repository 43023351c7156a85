//! The fuzz targets as functions of an input. The fuzzer needs a nightly compiler (`make fuzz`); the tests of this crate
//! replay its seeds and its kept corpus on the stable one.

pub mod admission;
#[cfg(feature = "answers")]
pub mod answers;
#[cfg(feature = "csr")]
pub mod csr;
pub mod seeds;
#[cfg(feature = "answers")]
pub mod streams;
pub mod values;
#[cfg(feature = "watched")]
pub mod watched;

/// The outcome of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Every law was checked.
    Taken,
    /// The input does not have the format of the target.
    Rejected,
}
