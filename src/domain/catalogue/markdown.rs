//! The catalogue as a page of the documentation.

use super::{Control, Field, Rows, default_text, defaults, groups};
use serde_json::Value;
use std::fmt::Write as _;

/// `docs/settings.md`, the whole of it.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Live settings\n\nEverything that an operator changes without a restart: on the console's page *Settings*, with \
         `PUT /api/v1/settings`, or with `vm-service settings`. Each save is a new version, in force in every process within five \
         seconds. This page is made from the same catalogue as the console's.\n",
    );
    let defaults = defaults();
    for group in groups() {
        let _ = write!(page, "\n## {}\n\n{}\n", group.title, group.intro);
        let (rows, plain): (Vec<&Field>, Vec<&Field>) = group.fields.iter().partition(|it| matches!(it.control, Control::Rows(_)));
        table(&mut page, &plain, &defaults);
        for field in rows {
            if let Control::Rows(rows) = field.control {
                let _ = write!(page, "\n### {} (`{}`)\n\n{} In a new {}:\n", field.name, field.path, field.help, rows.one);
                table(&mut page, &columns(rows), &(rows.fresh)());
            }
        }
    }
    page
}

fn columns(rows: &Rows) -> Vec<&Field> {
    rows.key.as_ref().into_iter().chain(rows.columns).collect()
}

fn table(page: &mut String, fields: &[&Field], defaults: &Value) {
    if fields.is_empty() {
        return;
    }
    page.push_str("\n| setting | field | default | |\n| --- | --- | --- | --- |\n");
    for field in fields {
        let _ = writeln!(page, "| {} | `{}` | {} | {} |", field.name, field.path, default_text(field, defaults), help(field));
    }
}

fn help(field: &Field) -> String {
    let Control::Choice(choices) = field.control else { return field.help.replace('|', "\\|") };
    let words: Vec<String> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
    format!("{} One of {}.", field.help, words.join(", "))
}
