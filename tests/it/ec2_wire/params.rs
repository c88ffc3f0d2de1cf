//! The parameters of a call as they stand on the wire: a flat map, in which lists count from 1.

use std::collections::BTreeMap;

/// Names and values, without `Action` and `Version`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Params(pub(crate) BTreeMap<String, String>);

impl Params {
    /// Reads a form.
    pub(super) fn decode(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    /// The form of a call of this action.
    pub(super) fn encode(&self, action: &str) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", action).append_pair("Version", "2016-11-15");
        form.extend_pairs(&self.0);
        form.finish()
    }

    /// A parameter; none is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A number, 0 where there is none.
    pub(super) fn number(&self, name: &str) -> u32 {
        self.get(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// The same with one parameter set.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.insert(name.to_owned(), value.to_owned());
        self
    }

    /// `InstanceId.1`, `InstanceId.2` …, in order.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        self.entries(name).iter().filter_map(|entry| self.get(entry)).collect()
    }

    /// The names `Filter.1`, `Filter.2` … of the entries of a list that are there, in order.
    pub(crate) fn entries(&self, list: &str) -> Vec<String> {
        let begin = format!("{list}.");
        let number = |name: &String| name.strip_prefix(&begin)?.split('.').next()?.parse::<usize>().ok();
        let mut numbers: Vec<usize> = self.0.keys().filter_map(number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|number| format!("{list}.{number}")).collect()
    }

    /// The tags that the call gives what it makes, by kind of resource.
    pub(crate) fn tags(&self, specification: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for entry in self.entries(specification) {
            let kind = self.get(&format!("{entry}.ResourceType")).unwrap_or_default().to_owned();
            found.entry(kind).or_default().extend(self.pairs(&format!("{entry}.Tag")));
        }
        found
    }

    /// Keys and values of a list of tags.
    pub(crate) fn pairs(&self, list: &str) -> BTreeMap<String, String> {
        let text = |name: String| self.0.get(&name).cloned().unwrap_or_default();
        self.entries(list).into_iter().map(|tag| (text(format!("{tag}.Key")), text(format!("{tag}.Value")))).collect()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Params {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}
