//! One setting as HTML: label, control, help, and what is wrong with it. Made of the catalogue and of what stands in the form.

use crate::domain::catalogue::{Control, Draft, Field, FormError, Group, Rows, default_text, groups};
use crate::http::console::frame::html;
use askama::Template;
use serde_json::Value;

#[derive(Template)]
#[template(path = "settings_field.html", config = ".askama.toml")]
struct FieldView<'a> {
    id: String,
    name: &'a str,
    field: &'a Field,
    kind: &'static str,
    text: &'a str,
    options: &'a [(&'a str, &'a str)],
    default: String,
    errors: Vec<&'a str>,
    /// Of an access key.
    key_id: &'a str,
    sealed: &'a str,
}

#[derive(Template)]
#[template(path = "settings_rows.html", config = ".askama.toml")]
struct RowsView<'a> {
    id: String,
    field: &'a Field,
    one: &'a str,
    rows: Vec<RowView>,
    errors: Vec<&'a str>,
}

struct RowView {
    legend: String,
    fields: Vec<String>,
}

impl FieldView<'_> {
    fn is_chosen(&self, word: &str) -> bool {
        word == self.text
    }

    /// What a control says with its name: what is wrong, then the help. An id holds letters, digits and hyphens only.
    fn aria(&self) -> String {
        let errors: String = (1..=self.errors.len()).map(|n| format!("{}-error-{n} ", self.id)).collect();
        let invalid = if errors.is_empty() { "" } else { " aria-invalid=\"true\"" };
        format!("aria-describedby=\"{errors}{}-help\"{invalid}", self.id)
    }
}

/// A group as HTML.
pub(super) struct GroupView {
    pub(super) group: &'static Group,
    pub(super) fields: Vec<String>,
}

/// What fields are made of.
pub(super) struct Form<'a> {
    pub(super) draft: &'a Draft,
    pub(super) errors: &'a [FormError],
    pub(super) defaults: &'a Value,
}

/// Names a field in the page.
pub(super) fn id(name: &str) -> String {
    let parts: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty()).collect();
    parts.join("-")
}

impl Form<'_> {
    /// Every group, in order.
    pub(super) fn groups(&self) -> Vec<GroupView> {
        let fields = |group: &'static Group| group.fields.iter().map(|field| self.one(field, field.path, self.defaults)).collect();
        groups().iter().map(|group| GroupView { group, fields: fields(group) }).collect()
    }

    fn errors(&self, name: &str) -> Vec<&str> {
        self.errors.iter().filter(|error| error.name == name).map(|error| error.message.as_str()).collect()
    }

    fn one(&self, field: &Field, name: &str, defaults: &Value) -> String {
        let (kind, options): (&str, &[(&str, &str)]) = match field.control {
            Control::Rows(rows) => return self.rows(field, rows),
            Control::Toggle => ("toggle", &[]),
            Control::Number | Control::OptionalNumber | Control::Signed => ("number", &[]),
            Control::Price => ("decimal", &[]),
            Control::Text | Control::OptionalText => ("text", &[]),
            Control::Choice(options) => ("choice", options),
            Control::Lines | Control::Pairs => ("lines", &[]),
            Control::Certificates => ("certificates", &[]),
            Control::SignIn => {
                ("sign-in", &[("instance_profile", "IAM Instance Profile"), ("access_key", "IAM User (Key+Secret)")])
            }
        };
        let part = |part: &str| self.draft.text(&format!("{name}.{part}"));
        let default = default_text(field, defaults);
        html(&FieldView {
            id: id(name),
            name,
            field,
            kind,
            text: self.draft.text(name),
            options,
            default,
            errors: self.errors(name),
            key_id: part("id"),
            sealed: part("sealed"),
        })
    }

    fn rows(&self, field: &Field, rows: &Rows) -> String {
        let fresh = (rows.fresh)();
        let row = |n: usize| {
            let name = format!("{}[{n}]", field.path);
            let key = rows.key.as_ref().map(|key| self.draft.text(&format!("{name}.{}", key.path)));
            let legend = match key {
                Some(key) if !key.is_empty() => format!("{} {key}", rows.one),
                _ => format!("{} {}", rows.one, n + 1),
            };
            let columns = rows.key.iter().chain(rows.columns);
            RowView { legend, fields: columns.map(|it| self.one(it, &format!("{name}.{}", it.path), &fresh)).collect() }
        };
        html(&RowsView {
            id: id(field.path),
            field,
            one: rows.one,
            rows: (0..self.draft.rows(field.path)).map(row).collect(),
            errors: self.errors(field.path),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::catalogue::defaults;
    use crate::domain::settings::Settings;

    #[test]
    fn what_is_wrong_with_a_field_is_said_with_its_name_whatever_its_control() {
        let (draft, defaults) = (Draft::of(&Settings::default()), defaults());
        for field in groups().iter().flat_map(|group| group.fields) {
            let id = id(field.path);
            let errors = [FormError { name: field.path.to_owned(), message: "is wrong".to_owned() }];
            let wrong = Form { draft: &draft, errors: &errors, defaults: &defaults }.one(field, field.path, &defaults);
            assert!(wrong.contains(&format!("<p class=\"problem\" id=\"{id}-error-1\">")), "{wrong}");
            let is_told = match field.control {
                Control::Rows(_) => wrong.contains(&format!("aria-describedby=\"{id}-error-1\"")),
                _ => wrong.contains(&format!("aria-describedby=\"{id}-error-1 {id}-help\" aria-invalid=\"true\"")),
            };
            assert!(is_told, "{wrong}");
            let right = Form { draft: &draft, errors: &[], defaults: &defaults }.one(field, field.path, &defaults);
            assert!(!right.contains("aria-invalid") && !right.contains("-error-"), "{right}");
        }
    }
}
