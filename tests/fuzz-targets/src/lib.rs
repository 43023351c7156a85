//! What the fuzz targets do with an input. The fuzzer needs a nightly compiler (`make fuzz`); the tests of this crate
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

/// What became of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Every law was checked.
    Taken,
    /// It is not what the target reads.
    Rejected,
}
