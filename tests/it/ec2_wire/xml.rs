//! Reading moto's answers, and changing them in place: what is not changed stays byte for byte.

use roxmltree::{Document, Node};
use std::ops::Range;

/// The element at the end of a path of names.
pub(super) fn find<'a, 'i>(node: Node<'a, 'i>, path: &[&str]) -> Option<Node<'a, 'i>> {
    path.iter().try_fold(node, |at, name| at.children().find(|child| child.tag_name().name() == *name))
}

/// The text at the end of a path; none is empty.
pub(super) fn text<'a>(node: Node<'a, '_>, path: &[&str]) -> &'a str {
    find(node, path).and_then(|found| found.text()).unwrap_or_default()
}

/// The `item`s of a list.
pub(super) fn items<'a, 'i>(node: Node<'a, 'i>, path: &[&str]) -> Vec<Node<'a, 'i>> {
    find(node, path).map_or_else(Vec::new, |list| list.children().filter(|child| child.tag_name().name() == "item").collect())
}

/// What is inside an element, as it stands.
pub(super) fn inner<'i>(source: &'i str, node: Node<'_, '_>) -> &'i str {
    match (node.first_child(), node.last_child()) {
        (Some(first), Some(last)) => &source[first.range().start..last.range().end],
        _ => "",
    }
}

/// Changes to one text.
#[derive(Default)]
pub(super) struct Edits(Vec<(Range<usize>, String)>);

impl Edits {
    pub(super) fn remove(&mut self, node: Node<'_, '_>) {
        self.0.push((node.range(), String::new()));
    }

    /// Puts other content into the element at the end of a path, if there is one.
    pub(super) fn set(&mut self, node: Node<'_, '_>, path: &[&str], content: &str) {
        if let Some(found) = find(node, path) {
            let name = found.tag_name().name();
            self.0.push((found.range(), format!("<{name}>{content}</{name}>")));
        }
    }

    /// The changed text; of two changes one inside the other, the outer one counts.
    pub(super) fn apply(mut self, source: &str) -> String {
        self.0.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
        let (mut out, mut done) = (String::with_capacity(source.len()), 0);
        for (range, content) in self.0 {
            if range.start >= done {
                out.push_str(&source[done..range.start]);
                out.push_str(&content);
                done = range.end;
            }
        }
        out + &source[done..]
    }
}

/// Reads an answer of moto.
pub(super) fn parse(source: &str) -> Document<'_> {
    Document::parse(source).unwrap()
}
