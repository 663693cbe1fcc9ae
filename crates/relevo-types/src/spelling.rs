//! What was probably meant.

/// The known word with the fewest edits to `text`.
///
/// # Panics
/// If there is no known word: the lists that this is asked about are constants with words in them.
pub fn nearest(text: &str, known: impl IntoIterator<Item = &'static str>) -> &'static str {
    // Only the start counts for words that nobody could have mistyped, so the work stays bounded.
    let text: Vec<char> = text.chars().take(80).collect();
    known.into_iter().min_by_key(|known| edits(&text, known)).expect("there are words")
}

/// Levenshtein distance.
fn edits(from: &[char], to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_word_that_was_meant() {
        let known = ["listen", "repository", "database"];

        assert_eq!(nearest("listne", known), "listen");
        assert_eq!(nearest("data-base", known), "database");
        assert_eq!(nearest(&"y".repeat(100_000), known), "repository");
    }
}
