//! Short writes in one piece. hyper hands a header and its body over as slices;
//! copying less than a page of them costs less than the kernel's walk over a list
//! of two.

use std::io::IoSlice;

/// What is copied at most, in bytes.
const SHORT: usize = 2048;

/// Writes slices that are short together as one, and others as they are.
pub(crate) fn write<W, T>(
    to: W,
    slices: &[IoSlice<'_>],
    whole: impl FnOnce(W, &[u8]) -> T,
    each: impl FnOnce(W, &[IoSlice<'_>]) -> T,
) -> T {
    if let [only] = slices {
        return whole(to, only);
    }
    let mut space = [0; SHORT];
    let mut end = 0;
    for slice in slices {
        let Some(place) = space.get_mut(end..end + slice.len()) else {
            return each(to, slices);
        };
        place.copy_from_slice(slice);
        end += slice.len();
    }
    whole(to, &space[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written, and how many slices it takes.
    fn written(parts: &[&[u8]]) -> (Vec<u8>, usize) {
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let whole = |(), bytes: &[u8]| (bytes.to_vec(), 1);
        let each = |(), slices: &[IoSlice<'_>]| {
            let bytes = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            (bytes, slices.len())
        };
        write((), &slices, whole, each)
    }

    #[test]
    fn what_is_short_goes_as_one_and_nothing_is_lost() {
        let long = vec![b'x'; SHORT - 3];
        for (parts, pieces) in [
            (&[][..], 1),
            (&[&b"head"[..]], 1),
            (&[b"head", b"", b"body"], 1),
            (&[b"abc", &long], 1),
            (&[b"abcd", &long], 2),
        ] {
            assert_eq!(written(parts), (parts.concat(), pieces));
        }
        let only = vec![b'x'; 2 * SHORT];
        assert_eq!(written(&[&only]), (only, 1));
    }
}
