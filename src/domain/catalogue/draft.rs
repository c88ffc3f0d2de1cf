//! Settings as the fields of a form, as they were typed, right or wrong: from settings and back. A field that cannot be read, or that the
//! rules of [`Settings`] refuse, is told by its name in the form.
//!
//! A field's *name* is its path; in a row it is `PATH[N].COLUMN`. A toggle that is off is not there.

use super::{Control, Field, Rows, all, at};
use crate::domain::certificates;
use crate::domain::settings::{MOST_ROWS, Settings};
use garde::Validate as _;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft(BTreeMap<String, String>);

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormError {
    /// Its name in the form; empty: the settings as a whole.
    pub name: String,
    /// What.
    pub message: String,
}

impl Draft {
    /// What was sent; fields that the catalogue does not have are dropped.
    pub fn sent(fields: impl IntoIterator<Item = (String, String)>) -> Self {
        let known = |name: &String| all().any(|field| name.starts_with(field.path));
        Self(fields.into_iter().filter(|(name, _)| known(name)).collect())
    }

    /// Of settings as they are.
    pub fn of(settings: &Settings) -> Self {
        let value = serde_json::to_value(settings).unwrap_or_default();
        let mut draft = Self::default();
        for field in all() {
            draft.write(field.path, field, at(&value, field.path).unwrap_or(&Value::Null));
        }
        draft
    }

    /// What stands in a field; empty when it is not there.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Every field and what stands in it.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// How many rows there are; of too many one, which is refused.
    pub fn rows(&self, path: &str) -> usize {
        let index = |name: &String| name.strip_prefix(path)?.strip_prefix('[')?.split_once(']')?.0.parse::<usize>().ok();
        self.0.keys().filter_map(index).filter(|row| *row <= MOST_ROWS).max().map_or(0, |last| last + 1)
    }

    /// One more row; nothing when there are no such rows.
    pub fn add_row(&mut self, path: &str) {
        let Some((field, rows)) = rows_at(path) else { return };
        let name = format!("{}[{}]", field.path, self.rows(path));
        self.write_row(&name, rows, "", &(rows.fresh)());
    }

    /// One row less; those after it move up.
    pub fn remove_row(&mut self, path: &str, row: usize) {
        let count = self.rows(path);
        if rows_at(path).is_none() || row >= count {
            return;
        }
        let moved = |name: &str| -> Option<String> {
            let Some((index, rest)) = name.strip_prefix(path).and_then(|rest| rest.strip_prefix('[')?.split_once(']')) else {
                return Some(name.to_owned());
            };
            match index.parse::<usize>() {
                Ok(at) if at == row => None,
                Ok(at) if at > row => Some(format!("{path}[{}]{rest}", at - 1)),
                _ => Some(name.to_owned()),
            }
        };
        self.0 = std::mem::take(&mut self.0).into_iter().filter_map(|(name, text)| Some((moved(&name)?, text))).collect();
    }

    /// The settings that it says.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the page.
    pub fn settings(&self) -> Result<Settings, Vec<FormError>> {
        let (mut whole, mut errors) = (Value::Object(Map::new()), Vec::new());
        let mut names = Names::default();
        for field in all() {
            let value = self.read(field.path, field, field.path, &mut errors, &mut names);
            put(&mut whole, field.path, value);
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let settings: Settings = serde_json::from_value(whole)
            .map_err(|error| vec![FormError { name: String::new(), message: format!("cannot be read: {error}") }])?;
        settings.validate().map_err(|report| {
            let error = |(path, error): &(garde::Path, garde::Error)| FormError {
                name: names.of(&path.to_string()),
                message: error.message().to_owned(),
            };
            report.iter().map(error).collect::<Vec<_>>()
        })?;
        Ok(settings)
    }

    fn set(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.0.insert(name.into(), text.into());
    }

    fn write(&mut self, name: &str, field: &Field, value: &Value) {
        match field.control {
            Control::Toggle => {
                if value == &Value::Bool(true) {
                    self.set(name, "on");
                }
            }
            Control::Lines | Control::Certificates => {
                let lines = value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::trim);
                self.set(name, lines.collect::<Vec<_>>().join("\n"));
            }
            Control::Pairs => {
                let pairs = value.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", plain(value)));
                self.set(name, pairs.collect::<Vec<_>>().join("\n"));
            }
            Control::SignIn => {
                let key = value.get("access_key");
                self.set(name, if key.is_some() { "access_key" } else { "instance_profile" });
                for part in ["id", "sealed"] {
                    self.set(format!("{name}.{part}"), key.and_then(|key| key.get(part)).map(plain).unwrap_or_default());
                }
            }
            Control::Rows(rows) => match value {
                Value::Array(items) => {
                    items.iter().enumerate().for_each(|(n, row)| self.write_row(&format!("{name}[{n}]"), rows, "", row));
                }
                Value::Object(items) => {
                    items.iter().enumerate().for_each(|(n, (key, row))| self.write_row(&format!("{name}[{n}]"), rows, key, row));
                }
                _ => {}
            },
            _ => self.set(name, plain(value)),
        }
    }

    fn write_row(&mut self, name: &str, rows: &Rows, key: &str, row: &Value) {
        if rows.key.is_some() {
            self.set(format!("{name}.key"), key);
        }
        for column in rows.columns {
            self.write(&format!("{name}.{}", column.path), column, at(row, column.path).unwrap_or(&Value::Null));
        }
    }

    /// `place`: where the API has what this field of the form says.
    fn read(&self, name: &str, field: &Field, place: &str, errors: &mut Vec<FormError>, names: &mut Names) -> Value {
        names.note(place, name);
        let text = self.text(name).trim();
        let mut number = |read: Option<Value>, what: &str| {
            read.unwrap_or_else(|| {
                errors.push(FormError { name: name.to_owned(), message: format!("is not {what}") });
                Value::Null
            })
        };
        match field.control {
            Control::Toggle => json!(!text.is_empty()),
            Control::OptionalNumber | Control::Price | Control::OptionalText if text.is_empty() => Value::Null,
            Control::Number | Control::OptionalNumber => number(text.parse::<u32>().ok().map(Value::from), "a whole number"),
            Control::Signed => number(text.parse::<i16>().ok().map(Value::from), "a whole number"),
            Control::Price => {
                let price = text.parse::<f64>().ok().filter(|price| (0.0..=4000.0).contains(price));
                number(price.map(Value::from), "a price from 0 to 4000, such as 0.096")
            }
            Control::Text | Control::OptionalText | Control::Choice(_) => json!(text),
            Control::Lines => json!(text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>()),
            Control::Certificates => json!(certificates::split(text).collect::<Vec<_>>()),
            Control::Pairs => {
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                let pairs: Option<Map<String, Value>> = lines
                    .map(|line| line.split_once('=').map(|(key, value)| (key.trim().to_owned(), json!(value.trim()))))
                    .collect();
                number(pairs.map(Value::Object), "a list of lines such as eu-west-1=ami-0123456789abcdef0")
            }
            Control::SignIn => self.sign_in(name),
            Control::Rows(rows) => self.read_rows(name, rows, place, errors, names),
        }
    }

    /// Without a new secret the sealed one stays.
    fn sign_in(&self, name: &str) -> Value {
        if self.text(name) != "access_key" {
            return json!("instance_profile");
        }
        let part = |part: &str| Some(self.text(&format!("{name}.{part}")).trim()).filter(|text| !text.is_empty());
        let mut key = json!({ "id": part("id").unwrap_or_default() });
        match (part("secret"), part("sealed")) {
            (Some(secret), _) => key["secret"] = json!(secret),
            (None, Some(sealed)) => key["sealed"] = json!(sealed),
            (None, None) => {}
        }
        json!({ "access_key": key })
    }

    fn read_rows(&self, name: &str, rows: &Rows, place: &str, errors: &mut Vec<FormError>, names: &mut Names) -> Value {
        let (mut list, mut map) = (Vec::new(), Map::new());
        for n in 0..self.rows(name) {
            let row_name = format!("{name}[{n}]");
            let key = self.text(&format!("{row_name}.key")).trim().to_owned();
            let row_place = if rows.key.is_some() { format!("{place}.{key}") } else { format!("{place}.{n}") };
            let mut row = Value::Object(Map::new());
            for column in rows.columns {
                let (name, place) = (format!("{row_name}.{}", column.path), format!("{row_place}.{}", column.path));
                let value = self.read(&name, column, &place, errors, names);
                put(&mut row, column.path, value);
            }
            let mut refuse = |message: &str| {
                errors.push(FormError { name: format!("{row_name}.key"), message: message.to_owned() });
            };
            match &rows.key {
                None => list.push(row),
                Some(_) if key.is_empty() => refuse("has no name: give it one"),
                Some(_) if map.contains_key(&key) => refuse("is there twice"),
                Some(_) => drop(map.insert(key, row)),
            }
        }
        if rows.key.is_some() { Value::Object(map) } else { Value::Array(list) }
    }
}

/// Which field of the form says what stands at a place of the settings.
#[derive(Default)]
struct Names(Vec<(String, String)>);

impl Names {
    fn note(&mut self, place: &str, name: &str) {
        self.0.push((place.to_owned(), name.to_owned()));
    }

    /// Of the field at this place, or of the one that it is a part of.
    fn of(&self, place: &str) -> String {
        let parts: Vec<&str> = place.split(['.', '[', ']']).filter(|part| !part.is_empty()).collect();
        let place = parts.join(".");
        let holds = |of: &str| place.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let found = self.0.iter().filter(|(of, _)| holds(of)).max_by_key(|(of, _)| of.len());
        found.map_or_else(|| place.clone(), |(_, name)| name.clone())
    }
}

fn rows_at(path: &str) -> Option<(&'static Field, &'static Rows)> {
    all().find_map(|field| match field.control {
        Control::Rows(rows) if field.path == path => Some((field, rows)),
        _ => None,
    })
}

/// Puts a value at a dotted path; nothing is nothing.
fn put(whole: &mut Value, path: &str, value: Value) {
    if value.is_null() {
        return;
    }
    let mut place = whole;
    for part in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[part];
    }
    *place = value;
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
