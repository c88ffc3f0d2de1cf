//! Every request that reached the wire, in order, with what became of it.

use super::params::Params;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Real time since the cloud began.
    pub(crate) at: Duration,
    /// As a policy names it: `ec2:RunInstances`.
    pub(crate) name: String,
    /// Without the service: `RunInstances`.
    pub(crate) action: String,
    pub(crate) params: Params,
    pub(crate) outcome: Outcome,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No answer yet, or the caller hung up.
    Open,
    /// Done and answered.
    Done,
    /// Refused with this code; nothing happened.
    Refused(String),
    /// Refused because a budget was empty or a fault said so; nothing happened.
    Throttled,
    /// The connection was cut; nothing happened.
    Cut,
    /// It was done, and the connection was cut.
    AnswerLost,
}

pub(super) struct Journal {
    began: Instant,
    requests: Mutex<Vec<Request>>,
    /// By action: calls that are under way, and the most that ever were.
    under_way: Mutex<BTreeMap<String, (usize, usize)>>,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), requests: Mutex::default(), under_way: Mutex::default() }
    }

    /// Notes a request and gives its number.
    pub(super) fn open(&self, service: &str, action: &str, params: Params) -> usize {
        let (at, name) = (self.began.elapsed(), format!("{service}:{action}"));
        let mut under_way = self.under_way.lock().unwrap();
        let (now, most) = under_way.entry(action.to_owned()).or_default();
        *now += 1;
        *most = (*most).max(*now);
        drop(under_way);
        let mut requests = self.requests.lock().unwrap();
        requests.push(Request { at, name, action: action.to_owned(), params, outcome: Outcome::Open });
        requests.len() - 1
    }

    pub(super) fn close(&self, number: usize, outcome: Outcome) {
        let mut requests = self.requests.lock().unwrap();
        requests[number].outcome = outcome;
        if let Some((now, _)) = self.under_way.lock().unwrap().get_mut(&requests[number].action) {
            *now -= 1;
        }
    }

    pub(super) fn most_at_once(&self, action: &str) -> usize {
        self.under_way.lock().unwrap().get(action).map_or(0, |(_, most)| *most)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}
