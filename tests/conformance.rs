//! `docs/conformance.md` tells the truth: every row of the checklist is in it, and every test that it names exists and
//! names the row. `docs/faults.md` does: every fault that was reported is in it, and the tests that it names exist.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LAST_ROW: u16 = 91;

#[test]
fn every_row_is_there_once_and_says_what_is_done() {
    let rows = rows();
    let numbers: Vec<u16> = rows.iter().filter_map(Row::number).collect();
    assert_eq!(numbers, (1..=LAST_ROW).collect::<Vec<u16>>(), "each row once, in order");
    for row in &rows {
        assert!(row.cells.iter().all(|cell| !cell.is_empty()), "empty cell: {}", row.line);
    }
}

#[test]
fn every_test_that_is_named_exists_and_names_its_row() {
    let mut faults = Vec::new();
    for row in rows() {
        let tests = row.tests();
        if tests.is_empty() {
            faults.push(format!("no test: {}", row.line));
        }
        for test in tests {
            match rows_named_by(&test) {
                Err(fault) => faults.push(format!("{test}: {fault}")),
                Ok(named) if row.number().is_some_and(|number| !named.contains(&number)) => {
                    faults.push(format!("{test} does not name row {}", row.cells[0]));
                }
                Ok(_) => {}
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_row_that_a_script_names_lists_the_script() {
    let listed: BTreeSet<(u16, String)> = rows()
        .iter()
        .filter_map(|row| Some((row.number()?, row.tests())))
        .flat_map(|(number, tests)| tests.into_iter().map(move |test| (number, test)))
        .collect();
    let scripts = fs::read_dir(root().join(SCRIPTS)).unwrap().map(|entry| entry.unwrap().file_name());
    for name in scripts.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".pkt")) {
        let script = format!("{SCRIPTS}/{name}");
        for number in rows_named_by(&script).unwrap() {
            assert!(listed.contains(&(number, script.clone())), "row {number} does not list {script}");
        }
    }
}

#[test]
fn every_fault_is_there_once_and_those_not_mended_are_known() {
    let rows = table("docs/faults.md");
    let named: Vec<&str> = rows.iter().map(|row| row.cells[0].as_str()).collect();
    let expected: Vec<String> = FAULTS
        .iter()
        .flat_map(|(letter, last)| (1..=*last).map(move |number| format!("{letter}{number}")))
        .filter(|fault| !ELSEWHERE.contains(&fault.as_str()))
        .collect();
    let (reported, found): (Vec<&str>, Vec<&str>) = named.iter().partition(|name| !name.starts_with("NEW"));
    assert_eq!(reported, expected, "each fault once, in order");
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len(), "each found one once");
    let open = rows.iter().filter(|row| row.cells.last().is_some_and(|cell| cell == "open"));
    let open: Vec<&str> = open.map(|row| row.cells[0].as_str()).collect();
    assert_eq!(open, OPEN, "the faults that are not mended");
}

#[test]
fn every_test_that_a_mended_fault_names_exists() {
    let mut wrong = Vec::new();
    for row in table("docs/faults.md") {
        let (tests, name) = (row.tests(), &row.cells[0]);
        if tests.is_empty() && !OPEN.contains(&name.as_str()) {
            wrong.push(format!("{name} names no test"));
        }
        let missing =
            tests.iter().filter_map(|test| missing(test).map(|why| format!("{name}: {test}: {why}")));
        wrong.extend(missing);
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Why there is no such test, or file; worlds of the simulation are named by `sim` and their seeds.
fn missing(test: &str) -> Option<String> {
    if test == "sim" || test.starts_with("SIM_SEED=") || root().join(test).exists() {
        return None;
    }
    rows_named_by(test).err()
}

/// A line of one of the tables.
struct Row {
    line: String,
    cells: Vec<String>,
}

impl Row {
    /// Its number in the checklist; the last table's lines have none.
    fn number(&self) -> Option<u16> {
        self.cells.first()?.parse().ok()
    }

    /// The tests that it names, in the last cell.
    fn tests(&self) -> Vec<String> {
        let last = self.cells.last().map_or("", String::as_str);
        last.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }
}

fn rows() -> Vec<Row> {
    table("docs/conformance.md")
}

fn table(document: &str) -> Vec<Row> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let is_row =
        |line: &&str| line.starts_with("| ") && !line.ends_with("| shown by |") && !line.starts_with("|---");
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    text.lines().filter(is_row).map(|line| Row { line: line.into(), cells: cells(line) }).collect()
}

/// The rows that a test names: a script in its header, a function in the comment above it.
fn rows_named_by(test: &str) -> Result<Vec<u16>, String> {
    if test.ends_with(".pkt") {
        let text = fs::read_to_string(root().join(test)).map_err(|_| "no such file")?;
        let list = text.strip_prefix("# rows: ").ok_or("no rows in its first line")?;
        return Ok(numbers_in(list.lines().next().unwrap_or("")));
    }
    let (module, name) = test.rsplit_once("::").ok_or("neither a script nor a path")?;
    let file = file_of(module).ok_or("no such module")?;
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let start = format!("fn {name}(");
    let at = lines.iter().position(|line| line.starts_with(&start)).ok_or("no such function")?;
    let above =
        || lines[..at].iter().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
    if !above().any(|line| *line == "#[test]") {
        return Err("not a test".into());
    }
    let comment: Vec<&str> = above().filter_map(|line| line.strip_prefix("/// ")).collect();
    let named = comment.into_iter().rev().find_map(|line| {
        let rest = line.strip_prefix("Rows ").or_else(|| line.strip_prefix("Row "))?;
        Some(numbers_in(rest.split(['.', ':']).next().unwrap_or("")))
    });
    Ok(named.unwrap_or_default())
}

/// `62` or `62, 63 and 64`.
fn numbers_in(list: &str) -> Vec<u16> {
    list.split(|letter: char| !letter.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// `engine::closing` is in `tests`, as are `netns` and the tests of one file; `wire::tcp::tests` is in `src`.
fn file_of(module: &str) -> Option<PathBuf> {
    let path = module.replace("::", "/");
    let candidates = match path.strip_suffix("/tests") {
        Some(unit) => [format!("src/{path}.rs"), format!("src/{unit}.rs"), format!("src/{unit}/mod.rs")],
        None => [format!("tests/{path}.rs"), format!("tests/{path}/mod.rs"), format!("tests/{path}/main.rs")],
    };
    candidates.into_iter().map(|file| root().join(file)).find(|file| file.exists())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The kinds of faults, and how many of each were reported.
const FAULTS: [(&str, u16); 4] = [("E", 23), ("B", 16), ("P", 8), ("T", 13)];

/// Reported, and mended with another part of the work.
const ELSEWHERE: [&str; 1] = ["T12"];

/// Not mended yet: `docs/faults.md` says so in the row.
const OPEN: [&str; 0] = [];

const SCRIPTS: &str = "tests/engine/scripts";
