//! The walls of DESIGN.md §2: who may import whom, how long a file may be, what stands at the top.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Module, and what it may import beside itself and `telemetry`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("telemetry", &[]),
    ("seal", &[]),
    ("clock", &[]),
    ("config", &["domain"]),
    ("db", &["domain"]),
    ("ssh", &["domain"]),
    ("provider", &["domain"]),
    ("guest", &["domain", "ssh"]),
    ("sim", &["domain", "provider", "guest", "clock"]),
    ("loops", &["db", "provider", "guest", "seal", "domain", "clock"]),
    ("http", &["db", "seal", "domain", "clock"]),
    ("cli", &["domain", "ssh"]),
    ("admin", &["config", "db", "provider", "guest", "loops", "seal", "domain", "clock"]),
];

const LONGEST: usize = 400;

const TOP: &[&str] =
    &["Cargo.lock", "Cargo.toml", "LICENSE", "Makefile", "README.md", "ami", "docs", "migrations", "packer", "src", "tests"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, endings));
        } else if path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Modules of the crate that a source text names: `crate::x`, and inside `use crate::{…}` each first word.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => drop(found.insert(word(rest))),
            Some(group) => {
                let mut depth = 0;
                let mut expect = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => expect = true,
                        c if expect && (c.is_alphabetic() || c == '_') => {
                            found.insert(word(&group[i..]));
                            expect = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn the_reader_of_imports_reads_them() {
    let text = "// crate::no\nuse crate::a::B;\nuse crate::{c, d::{E, f}, g as h};\nfn x() { crate::i::y() }";
    assert_eq!(imports(text).into_iter().collect::<Vec<_>>(), ["a", "c", "d", "g", "i"]);
}

#[test]
fn modules_import_only_what_they_may() {
    let rules: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files(&root().join("src"), &["rs"]) {
        let inside = file.strip_prefix(root().join("src")).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if ["lib", "main", "app"].contains(&module) {
            continue;
        }
        seen.insert(module.to_owned());
        let Some(allowed) = rules.get(module) else {
            wrong.push(format!("{module} is not in the table"));
            continue;
        };
        let fine = |name: &str| name == module || name == "telemetry" || allowed.contains(&name);
        let text = std::fs::read_to_string(&file).unwrap();
        wrong.extend(
            imports(&text).into_iter().filter(|name| !fine(name)).map(|name| format!("{} imports {name}", inside.display())),
        );
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(seen.contains("domain") && seen.contains("loops"), "{seen:?}");
}

#[test]
fn sql_stands_in_db_alone() {
    let outside: Vec<_> = files(&root().join("src"), &["rs"])
        .into_iter()
        .filter(|file| !file.starts_with(root().join("src/db")))
        .filter(|file| std::fs::read_to_string(file).unwrap().contains("sqlx::query"))
        .collect();
    assert_eq!(outside, Vec::<PathBuf>::new());
}

#[test]
fn no_file_is_longer_than_it_may_be() {
    let folders = ["src", "tests", "migrations"].map(|folder| root().join(folder));
    let long: Vec<_> = folders
        .iter()
        .flat_map(|folder| files(folder, &["rs", "sql"]))
        .map(|file| (std::fs::read_to_string(&file).unwrap().lines().count(), file))
        .filter(|(lines, _)| *lines > LONGEST)
        .collect();
    assert_eq!(long, Vec::<(usize, PathBuf)>::new());
}

#[test]
fn production_code_does_not_ask_whether_it_is_tested() {
    let mut wrong = Vec::new();
    for file in files(&root().join("src"), &["rs"]) {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let asks = line.contains("cfg(test)") || line.contains("cfg!(test)") || line.contains("cfg(not(test))");
            let opens_tests = lines.get(n + 1).is_some_and(|next| next.starts_with("mod ") || next.starts_with("#[path"));
            if asks && !(line.trim() == "#[cfg(test)]" && opens_tests) {
                wrong.push(format!("{}:{}", file.display(), n + 1));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_top_holds_what_it_should() {
    let extra: Vec<String> = std::process::Command::new("git")
        .args(["ls-files"])
        .current_dir(root())
        .output()
        .map(|out| String::from_utf8(out.stdout).unwrap())
        .unwrap()
        .lines()
        .map(|line| line.split('/').next().unwrap().to_owned())
        .filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str()))
        .collect();
    assert_eq!(extra, Vec::<String>::new());
}

#[test]
fn there_is_one_cryptographic_library() {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--all-features", "--edges", "normal,build", "--prefix", "none"])
        .current_dir(root())
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.contains("\naws-lc-rs v"), "the tree could not be read: {tree}");
    assert!(!tree.contains("\nring v"), "`ring` came into the tree: choose the aws-lc-rs feature of the crate that brought it");
}
