//! As much of PromQL as it takes to say which metrics and labels an expression names; that it is well-formed is for
//! promtool to say.

use std::collections::BTreeSet;

/// A metric in an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) metric: String,
    /// The labels that it is chosen by, with operator and value: `job` and `=~"$job"`.
    pub(crate) matchers: Vec<(String, String)>,
    /// What stands in brackets behind it.
    pub(crate) range: Option<String>,
    /// The function that it is the argument of.
    pub(crate) function: String,
}

/// What an expression names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) selectors: Vec<Selector>,
    /// The labels of `by` and `without`.
    pub(crate) grouping: BTreeSet<String>,
}

/// What `expr` names.
pub(crate) fn names(expr: &str) -> Names {
    let mut found = Names::default();
    let mut rest = expr;
    let mut function = String::new();
    while let Some(first) = rest.chars().next() {
        if !(first.is_ascii_alphabetic() || first == '_') {
            // A number goes as a whole, so that the letters of 1e-9 or 5m are no name.
            let len = if first.is_ascii_digit() { word_len(rest) } else { first.len_utf8() };
            rest = &rest[len..];
            continue;
        }
        let (word, behind) = rest.split_at(word_len(rest));
        rest = behind.trim_start();
        let is_grouped = ["by (", "without ("].iter().any(|clause| rest.starts_with(clause));
        match (word, rest.chars().next()) {
            ("by" | "without", _) => {
                let (labels, behind) = enclosed(rest, '(', ')');
                found.grouping.extend(labels.split(',').map(|label| label.trim().to_owned()));
                rest = behind;
            }
            ("or" | "and" | "unless", _) => {}
            (_, Some('(')) => word.clone_into(&mut function),
            _ if is_grouped => {}
            _ => {
                let (matchers, behind) =
                    if rest.starts_with('{') { enclosed(rest, '{', '}') } else { ("", rest) };
                let is_range = behind.starts_with('[');
                let (range, behind) = if is_range { enclosed(behind, '[', ']') } else { ("", behind) };
                found.selectors.push(Selector {
                    metric: word.to_owned(),
                    matchers: split(matchers),
                    range: is_range.then(|| range.to_owned()),
                    function: std::mem::take(&mut function),
                });
                rest = behind;
            }
        }
    }
    found
}

fn word_len(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c)).unwrap_or(text.len())
}

/// What stands between `open`, with which `text` begins, and the next `close`, and what follows.
fn enclosed(text: &str, open: char, close: char) -> (&str, &str) {
    let inner = text.strip_prefix(open).unwrap_or_else(|| panic!("no {open} in {text}"));
    inner.split_once(close).unwrap_or_else(|| panic!("no {close} in {text}"))
}

fn split(matchers: &str) -> Vec<(String, String)> {
    let matcher = |text: &str| {
        let text = text.trim();
        let (label, value) = text.split_at(word_len(text));
        (label.to_owned(), value.to_owned())
    };
    matchers.split(',').filter(|text| !text.trim().is_empty()).map(matcher).collect()
}

#[test]
fn names_are_found() {
    let found = names("8 * sum by (a, b) (rate(x_total{job=~\"$job\", c=\"d\"}[5m])) > 1e-9 or y");
    assert_eq!(found.grouping, ["a", "b"].map(str::to_owned).into());
    let pair = |label: &str, value: &str| (label.to_owned(), value.to_owned());
    let x = Selector {
        metric: "x_total".to_owned(),
        matchers: vec![pair("job", "=~\"$job\""), pair("c", "=\"d\"")],
        range: Some("5m".to_owned()),
        function: "rate".to_owned(),
    };
    let y = Selector { metric: "y".to_owned(), matchers: Vec::new(), range: None, function: String::new() };
    assert_eq!(found.selectors, [x, y]);
}
