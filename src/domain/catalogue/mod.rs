//! Every live setting as a person meets it: the guide's name where the guide has one, unit, help, and how it is entered. The settings page
//! and `docs/settings.md` are made of this and of nothing else; a test holds it equal to the schema of [`Settings`].
//!
//! A *path* names a field as the API does: `timeouts.task_hours`. *Rows* are a list or a map of settings that repeat; the paths of their
//! columns begin at the row, and the column `key` is the name under which a row of a map stands.
//!
//! Not here: what a form's fields make of it (`draft`); which values are allowed (the `garde` rules at the fields of [`Settings`]).

mod draft;
mod fields;
mod markdown;
mod rows;

pub use draft::{Draft, FormError};
pub use markdown::markdown;

use super::settings::Settings;
use serde_json::Value;

/// Fields that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Names it in links.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// One sentence under the heading.
    pub intro: &'static str,
    /// In order.
    pub fields: &'static [Field],
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As in the API.
    pub path: &'static str,
    /// The guide's own, where it has one.
    pub name: &'static str,
    /// Of its number; empty: none.
    pub unit: &'static str,
    /// What it does, and what it may be.
    pub help: &'static str,
    /// How it is entered.
    pub control: Control,
}

/// How a setting is entered.
#[derive(Clone, Copy, Debug)]
pub enum Control {
    /// On or off.
    Toggle,
    /// A whole number, 0 or more.
    Number,
    /// The same, or nothing.
    OptionalNumber,
    /// A whole number of either sign.
    Signed,
    /// An amount of money, or nothing.
    Price,
    /// One line.
    Text,
    /// One line, or nothing.
    OptionalText,
    /// One of these words; with what a person reads.
    Choice(&'static [(&'static str, &'static str)]),
    /// A list, one a line.
    Lines,
    /// Certificates, one behind the other.
    Certificates,
    /// `name=value`, one a line.
    Pairs,
    /// How the service signs in to AWS: a choice, and an access key with its secret half.
    SignIn,
    /// Settings that repeat.
    Rows(&'static Rows),
}

/// Settings that repeat.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// What one is called.
    pub one: &'static str,
    /// The name under which a row of a map stands; none: a list.
    pub key: Option<Field>,
    /// The rest.
    pub columns: &'static [Field],
    /// What a new row begins with.
    pub fresh: fn() -> Value,
}

/// Every group, in the order of the page.
pub const fn groups() -> &'static [Group] {
    fields::GROUPS
}

/// Every field that stands alone, and every table of rows.
pub fn all() -> impl Iterator<Item = &'static Field> {
    groups().iter().flat_map(|group| group.fields)
}

/// The defaults, as the API writes them.
pub fn defaults() -> Value {
    serde_json::to_value(Settings::default()).unwrap_or_default()
}

/// A field's default as a person reads it; `defaults` are of the settings or of a new row.
pub fn default_text(field: &Field, defaults: &Value) -> String {
    match at(defaults, field.path).unwrap_or(&Value::Null) {
        Value::Null => "–".to_owned(),
        Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
        Value::Array(items) if items.is_empty() => "–".to_owned(),
        Value::Object(items) if items.is_empty() => "–".to_owned(),
        Value::String(word) => word.clone(),
        value if field.unit.is_empty() => value.to_string(),
        value => format!("{value} {}", field.unit),
    }
}

/// The value at a dotted path.
pub(super) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, part| value.get(part))
}
