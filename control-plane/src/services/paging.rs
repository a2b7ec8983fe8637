//! Pages of lists that are ordered by name: the token is the last name sent, so
//! a page stays right when the list changes between two calls.

use tonic::Status;

use super::status;

/// Page size when none is asked for.
const DEFAULT: usize = 100;

/// Largest page.
const MAX: u32 = 1000;

/// Checks a page size.
pub(super) fn size(asked: u32) -> Result<usize, Status> {
    match asked {
        0 => Ok(DEFAULT),
        1..=MAX => Ok(asked as usize),
        _ => Err(status::invalid(
            "page_size",
            format!("is {asked}: allowed are 1 to {MAX}, 0 means {DEFAULT}"),
        )),
    }
}

/// Cuts a page out of a list that is ordered by name; returns the next token.
pub(super) fn page<T>(
    items: impl Iterator<Item = T>,
    name: impl Fn(&T) -> &str,
    asked: u32,
    token: &str,
) -> Result<(Vec<T>, String), Status> {
    let size = size(asked)?;
    let mut page: Vec<T> = items.filter(|i| name(i) > token).take(size + 1).collect();
    let more = page.len() > size;
    page.truncate(size);
    let next = page
        .last()
        .filter(|_| more)
        .map(|last| name(last).to_owned());
    Ok((page, next.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_a_list_once_even_if_it_changes_between_them() {
        let (first, token) = page(["a", "b", "c"].into_iter(), |i| i, 2, "").expect("valid");
        assert_eq!((first, token.as_str()), (vec!["a", "b"], "b"));
        let (rest, token) = page(["a", "aa", "c"].into_iter(), |i| i, 2, &token).expect("valid");
        assert_eq!((rest, token.as_str()), (vec!["c"], ""));
    }

    #[test]
    fn a_page_size_out_of_range_is_refused() {
        let refused = size(1001).expect_err("too large");
        assert!(refused.message().contains("1 to 1000"), "{refused}");
    }
}
