//! How much user data a guest can be given.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::input::UserDataError;

/// A Secret holds 1 MiB; what is beside the user data in ours is a few bytes.
const SECRET: usize = 1024 * 1024 - 1024;
/// All annotations of an object hold 256 KiB. Those of the Machine are copied beside Ignition's, and KubeVirt adds some.
const ANNOTATION: usize = 192 * 1024;

/// The user data as it is stored: compressed where it does not fit otherwise, which cloud-init understands.
pub(super) fn cloud_config(text: String) -> Result<Vec<u8>, UserDataError> {
    if text.len() <= SECRET {
        return Ok(text.into_bytes());
    }
    let packed = gzip(text.as_bytes());
    if packed.len() <= SECRET {
        Ok(packed)
    } else {
        Err(UserDataError::TooLarge {
            what: "a Secret, compressed",
            bytes: packed.len(),
            limit: SECRET,
        })
    }
}

/// Ignition, which is passed in an annotation: its files are compressed already.
pub(super) fn ignition(text: String) -> Result<Vec<u8>, UserDataError> {
    if text.len() <= ANNOTATION {
        Ok(text.into_bytes())
    } else {
        Err(UserDataError::TooLarge {
            what: "the annotation by which KubeVirt passes Ignition",
            bytes: text.len(),
            limit: ANNOTATION,
        })
    }
}

/// Compresses, without name or time, so that the same text gives the same bytes.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text that cannot be compressed much.
    fn noise(length: usize) -> String {
        let mut state = 88_172_645_463_325_252_u64;
        let letters = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'!' + u8::try_from(state % 90).unwrap_or_default())
        });
        letters.take(length).collect()
    }

    #[test]
    fn what_fits_is_stored_as_it_is_and_what_does_not_is_compressed() {
        assert_eq!(cloud_config("a".repeat(SECRET)).unwrap().len(), SECRET);
        let packed = cloud_config("a".repeat(SECRET + 1)).unwrap();
        assert_eq!(packed[..2], [0x1f, 0x8b]);
    }

    #[test]
    fn what_does_not_fit_even_then_is_refused_with_the_numbers() {
        let error = cloud_config(noise(2 * SECRET)).unwrap_err();
        assert!(error.to_string().contains("1047552"), "{error}");
        let error = ignition("a".repeat(ANNOTATION + 1)).unwrap_err();
        assert!(
            error.to_string().contains("196609") && error.to_string().contains("196608"),
            "{error}"
        );
    }
}
