//! "did you mean": the nearest known word to a misspelt one.

/// The known word that `word` most likely stands for; `None` when nothing is near.
///
/// Case is ignored, a swap of neighbours counts as one edit, and a third of the longer word's
/// letters may differ: `scael` finds `scale`, `x` finds nothing.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            (
                strsim::osa_distance(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| {
            *distance <= candidate.chars().count().max(lower.chars().count()) / 3
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The suggestion for a word that is not in a list: the nearest, or else the whole list.
pub(crate) fn did_you_mean(word: &str, known: &[&str]) -> Option<String> {
    match nearest(word, known.iter().copied()) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if known.is_empty() => None,
        None => Some(one_of(known)),
    }
}

/// Keys that a message names: as many as the largest table has.
const MOST_NAMED: usize = 32;

/// "use `a`, `b` or `c`".
fn one_of(known: &[&str]) -> String {
    let quoted: Vec<String> = known
        .iter()
        .take(MOST_NAMED)
        .map(|word| format!("`{word}`"))
        .collect();
    match quoted.split_last() {
        Some((last, [])) => format!("use {last}"),
        Some((last, rest)) => format!("use {} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_near_words_only() {
        let known = ["scale", "processes", "addons"];
        assert_eq!(nearest("scael", known), Some("scale"));
        assert_eq!(nearest("Addon", known), Some("addons"));
        assert_eq!(nearest("x", known), None);
        assert_eq!(nearest(&"scale".repeat(40), known), None);
        assert_eq!(
            did_you_mean("q", &["a-long-one", "b-long-one"]).unwrap(),
            "use `a-long-one` or `b-long-one`"
        );
        assert_eq!(did_you_mean("q", &[]), None);
    }
}
