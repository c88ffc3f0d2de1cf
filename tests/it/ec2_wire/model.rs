//! Every request is one that AWS's own service model knows: names on the wire, required members, types, lengths, enumerations
//! and patterns, read from the model files that botocore carries.
//!
//! Left out: the enumeration of instance types, because AWS adds types every week and operators name them (`Rules::types` stands
//! for what the account has); one pattern with a look-ahead, of a secret's name.

use super::moto;
use super::params::Params;
use super::shapes::{File, Member, Operation, Shape};
use regex_lite::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// The model of one service.
pub(super) struct Model {
    file: File,
    /// Names in capitals and lists as `Name.1`: the protocol of EC2. Otherwise names as they stand.
    query: bool,
}

/// What a request names: members by structure and numbers by list, each by its place.
#[derive(Default)]
struct Named<'a> {
    structures: BTreeMap<String, (&'a str, BTreeSet<&'a str>)>,
    lists: BTreeMap<String, (&'a str, BTreeSet<usize>)>,
}

/// EC2's model, read once.
pub(super) fn ec2() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model { file: File::read(&moto::folder(), "ec2"), query: true })
}

/// EBS direct's model, read once.
pub(super) fn ebs() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model { file: File::read(&moto::folder(), "ebs"), query: false })
}

impl Model {
    /// Everything in which this request is not one of the model.
    pub(super) fn check(&self, action: &str, params: &Params) -> Vec<String> {
        let Some(operation) = self.file.operations.get(action) else {
            return vec![format!("{action}: there is no such action")];
        };
        let Some(input) = &operation.input else {
            return params.0.keys().map(|name| format!("{action}: {name}: it takes no parameters")).collect();
        };
        let mut named = Named::default();
        named.structures.insert(String::new(), (&input.shape, BTreeSet::new()));
        let mut wrong = Vec::new();
        for (name, value) in &params.0 {
            if let Err(reason) = self.walk(&input.shape, name, value, &mut named) {
                wrong.push(format!("{action}: {name}={}: {reason}", value.chars().take(80).collect::<String>()));
            }
        }
        wrong.extend(self.missing(&named).into_iter().map(|what| format!("{action}: {what}")));
        wrong
    }

    /// The operation of a path of a REST service, and the parameters that are in the path.
    pub(super) fn route(&self, method: &str, path: &str) -> Option<(&str, &Operation, Params)> {
        self.file.operations.iter().find_map(|(name, operation)| {
            let params = operation.http.parse(method, path)?;
            Some((name.as_str(), operation, params))
        })
    }

    /// Members of the input of an operation.
    pub(super) fn members(&self, operation: &Operation) -> impl Iterator<Item = (&String, &Member)> {
        operation.input.iter().flat_map(|input| &self.file.shapes[&input.shape].members)
    }

    /// Goes down a name part by part, notes what it names, and checks the value at its end.
    fn walk<'a>(&'a self, root: &'a str, name: &str, value: &str, named: &mut Named<'a>) -> Result<(), String> {
        let (mut at, mut place) = (root, String::new());
        for part in name.split('.') {
            let shape = &self.file.shapes[at];
            match shape.kind.as_str() {
                "structure" => {
                    let found = shape.members.iter().find(|(name, member)| self.on_wire(name, member) == part);
                    let (name, member) = found.ok_or_else(|| format!("{at} has no member {part}"))?;
                    named.structures.entry(place.clone()).or_insert((at, BTreeSet::new())).1.insert(name);
                    at = &member.shape;
                }
                "list" => {
                    let number = part.parse().map_err(|_| format!("{at} is a list, {part} is not a number"))?;
                    named.lists.entry(place.clone()).or_insert((at, BTreeSet::new())).1.insert(number);
                    at = &shape.member.as_ref().unwrap().shape;
                }
                other => return Err(format!("{at} is a {other} and has no parts")),
            }
            place = if place.is_empty() { part.to_owned() } else { format!("{place}.{part}") };
        }
        self.file.shapes[at].check(at, value)
    }

    /// Required members that are not there, lists that do not count from 1 or have too few or too many entries.
    fn missing(&self, named: &Named<'_>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (place, (name, members)) in &named.structures {
            let required = self.file.shapes[*name].required.iter();
            wrong.extend(required.filter(|r| !members.contains(r.as_str())).map(|r| format!("{place}: {r} is required")));
        }
        for (place, (name, numbers)) in &named.lists {
            if !numbers.iter().copied().eq(1..=numbers.len()) {
                wrong.push(format!("{place}: does not count from 1: {numbers:?}"));
            }
            let shape = &self.file.shapes[*name];
            wrong.extend(shape.out_of_range(numbers.len()).map(|range| format!("{place}: {} entries, {range}", numbers.len())));
        }
        wrong
    }

    fn on_wire(&self, name: &str, member: &Member) -> String {
        match (&member.query_name, &member.location_name) {
            (Some(query), _) if self.query => query.clone(),
            (_, Some(location)) if self.query => location[..1].to_uppercase() + &location[1..],
            (_, Some(location)) => location.clone(),
            (_, None) => name.to_owned(),
        }
    }
}

impl Shape {
    /// Whether a text is a value of this scalar.
    fn check(&self, name: &str, value: &str) -> Result<(), String> {
        let told = |fine: bool, what: &str| if fine { Ok(()) } else { Err(format!("{name}: not {what}")) };
        match self.kind.as_str() {
            "string" => self.check_text(name, value),
            "integer" | "long" => {
                let number: i64 = value.parse().map_err(|_| format!("{name}: not a whole number"))?;
                told(self.allows(number), &format!("between {:?} and {:?}", self.min, self.max))
            }
            "float" | "double" => told(value.parse::<f64>().is_ok(), "a number"),
            "boolean" => told(["true", "false"].contains(&value), "true or false"),
            "timestamp" => told(chrono::DateTime::parse_from_rfc3339(value).is_ok(), "a time as ISO 8601 has it"),
            "blob" => Ok(()),
            other => Err(format!("{name}: is a {other} and not a value")),
        }
    }

    fn check_text(&self, name: &str, value: &str) -> Result<(), String> {
        if name != "InstanceType" && !self.values.is_empty() && !self.values.iter().any(|known| known == value) {
            return Err(format!("{name}: not one of {}", self.values.join(", ")));
        }
        if let Some(range) = self.out_of_range(value.chars().count()) {
            return Err(format!("{name}: {} characters, {range}", value.chars().count()));
        }
        match self.pattern.as_ref().and_then(|pattern| Some((pattern, Regex::new(&format!("^(?:{pattern})$")).ok()?))) {
            Some((pattern, regex)) if !regex.is_match(value) => Err(format!("{name}: does not match {pattern}")),
            _ => Ok(()),
        }
    }

    fn allows(&self, number: i64) -> bool {
        self.min.is_none_or(|min| number >= min) && self.max.is_none_or(|max| number <= max)
    }

    /// The range of a length or number of entries, where it is left.
    fn out_of_range(&self, length: usize) -> Option<String> {
        let left = !self.allows(i64::try_from(length).unwrap());
        left.then(|| format!("not between {:?} and {:?}", self.min, self.max))
    }
}
