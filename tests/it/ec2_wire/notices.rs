//! What AWS announces about machines, which moto never does: scheduled events, and spot machines that are taken back.

use super::answer::Answer;
use super::proxy::Cloud;
use super::wire::{Call, Wire};

/// An announcement.
#[derive(Clone, Debug)]
pub(crate) enum Announced {
    /// A scheduled event of this code, with its description.
    Event(&'static str, &'static str),
    /// The spot machine ends within two minutes.
    TakenBack,
}

impl Cloud {
    /// AWS announces this about the machine from now on.
    pub(crate) fn announce(&self, id: &str, what: Announced) {
        self.wire().state.lock().unwrap().announced.insert(id.to_owned(), what);
    }
}

impl Wire {
    /// The answer to a question about announcements; none: it is not one, and moto answers.
    pub(super) fn announced(&self, call: &Call) -> Option<Answer> {
        let wanted = |filter: &str| -> Option<Vec<String>> {
            let entries = call.params.entries("Filter");
            let entry = entries.iter().find(|entry| call.params.get(&format!("{entry}.Name")) == Some(filter))?;
            Some(call.params.list(&format!("{entry}.Value")).into_iter().map(str::to_owned).collect())
        };
        let (set, filter) = match call.action.as_str() {
            "DescribeInstanceStatus" => ("instanceStatusSet", "event.code"),
            "DescribeSpotInstanceRequests" => ("spotInstanceRequestSet", "status-code"),
            _ => return None,
        };
        let wanted = wanted(filter)?;
        let state = self.state.lock().unwrap();
        let items = state.announced.iter().filter_map(|(id, what)| match what {
            Announced::Event(code, description) if set == "instanceStatusSet" && wanted.iter().any(|it| it == code) => Some(format!(
                "<item><instanceId>{id}</instanceId><eventsSet><item><code>{code}</code><description>{description}</description>\
                 <notBefore>2026-12-01T04:00:00.000Z</notBefore></item></eventsSet></item>"
            )),
            Announced::TakenBack if set == "spotInstanceRequestSet" && wanted.iter().any(|it| it == "marked-for-termination") => {
                let status = "<status><code>marked-for-termination</code></status>";
                Some(format!("<item><spotInstanceRequestId>sir-1</spotInstanceRequestId><instanceId>{id}</instanceId>{status}</item>"))
            }
            _ => None,
        });
        let items: String = items.collect();
        let action = &call.action;
        Some(Answer::xml(format!(
            "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>1</requestId><{set}>{items}</{set}>\
             </{action}Response>"
        )))
    }
}
