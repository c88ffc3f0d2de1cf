//! Machines held by us, for runs that count the calls for hundreds of machines (`Rules::held_by_us`): moto makes 40 to 120 a second, and
//! a look at so many takes it longer than a caller waits.
//!
//! *Foreign* it stays what a launch may say: moto is asked for one machine with the very parameters of the call, refuses what it refuses,
//! and its answer is the mould that all machines of the launch are cast from. *Not foreign* any more: how many machines there are, which
//! of them a look shows, and that they run and end. `held_tests` holds these answers equal to moto's; signature, model, policy, faults,
//! budgets, tokens, lags and journal are the proxy's as always.
//!
//! Not here: anything else that is done with machines (stop, start, disks, consoles): a violation.

use super::answer::{Refusal, Stop};
use super::params::Params;
use super::upstream::numbered;
use super::wire::Wire;
use super::xml::{Edits, find, items, parse, text};
use std::collections::{BTreeMap, BTreeSet};

const XMLNS: &str = "xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"";
const ENDED: &str = "<code>48</code><name>terminated</name>";
/// What moto is asked as ever.
const PASSED_ON: [&str; 6] = [
    "DescribeImages",
    "DescribeInstanceTypeOfferings",
    "DescribeInstanceTypes",
    "DescribeSecurityGroups",
    "DescribeSubnets",
    "DescribeVolumes",
];

/// All machines that there were.
#[derive(Default)]
pub(super) struct Held {
    reservations: Vec<Reservation>,
    machines: u32,
}

/// What one launch made.
struct Reservation {
    id: String,
    /// What an answer says of it before its machines.
    head: String,
    machines: Vec<Machine>,
}

struct Machine {
    id: String,
    tags: BTreeMap<String, String>,
    lives: bool,
    /// As an answer shows it now.
    shown: String,
}

impl Wire {
    /// The answer to a call, if it is one that machines held by us are meant by.
    pub(super) async fn ask_held(&self, action: &str, params: &Params) -> Option<Result<String, Stop>> {
        match action {
            _ if !self.rules.held_by_us || PASSED_ON.contains(&action) => None,
            "RunInstances" => Some(self.cast(params).await),
            "DescribeInstances" => Some(self.held.lock().unwrap().describe(params)),
            "TerminateInstances" => Some(self.held.lock().unwrap().terminate(params)),
            _ => {
                self.violated("held by us", vec![format!("{action} knows no machine that is")]);
                None
            }
        }
    }

    /// One machine of moto's, and as many like it as the call asks for; moto's own goes again.
    async fn cast(&self, params: &Params) -> Result<String, Stop> {
        let one = params.clone().with("MinCount", "1").with("MaxCount", "1");
        let mould = self.ask_moto("RunInstances", &one).await?;
        let document = parse(&mould);
        let id = text(items(document.root_element(), &["instancesSet"])[0], &["instanceId"]);
        self.ask_moto("TerminateInstances", &numbered("InstanceId", &[id])).await?;
        Ok(self.held.lock().unwrap().cast(&mould, params.number("MaxCount")))
    }
}

impl Held {
    fn cast(&mut self, mould: &str, count: u32) -> String {
        let document = parse(mould);
        let root = document.root_element();
        let set = find(root, &["instancesSet"]).unwrap();
        let head = mould[root.first_child().unwrap().range().start..set.range().start].to_owned();
        let item = &mould[items(root, &["instancesSet"])[0].range()];
        let (mut made, mut machines) = (String::new(), Vec::new());
        assert!(self.machines + count <= 4000, "no addresses for more machines");
        for nth in 0..count {
            self.machines += 1;
            let (id, pending) = copy(item, self.machines, nth);
            made.push_str(&pending);
            let tags = tags(&pending);
            let shown = edited(&pending, &[(&["instanceState"], "<code>16</code><name>running</name>")]);
            machines.push(Machine { id, tags, lives: true, shown });
        }
        self.reservations.push(Reservation { id: text(root, &["reservationId"]).to_owned(), head: head.clone(), machines });
        answer("RunInstances", &format!("{head}<instancesSet>{made}</instancesSet>"))
    }

    /// By ids, all of them or an error; by filters, page by page. A page has at most `MaxResults` machines, or one launch.
    fn describe(&self, params: &Params) -> Result<String, Stop> {
        let ids = self.known(params)?;
        let filters: Vec<(String, BTreeSet<&str>)> = params
            .entries("Filter")
            .iter()
            .map(|it| (params.0[&format!("{it}.Name")].clone(), params.list(&format!("{it}.Value")).into_iter().collect()))
            .collect();
        let wanted = |it: &&Machine| (ids.is_empty() || ids.contains(it.id.as_str())) && filters.iter().all(|one| it.fits(one));
        let most = params.get("MaxResults").map_or(usize::MAX, |_| params.number("MaxResults") as usize);
        let token = params.get("NextToken");
        let begun = token.map_or(0, |token| self.reservations.iter().position(|it| it.id == token).unwrap() + 1);
        let (mut shown, mut count, mut last, mut next) = (String::new(), 0, "", String::new());
        for reservation in &self.reservations[begun..] {
            let machines: Vec<&Machine> = reservation.machines.iter().filter(wanted).collect();
            if machines.is_empty() {
                continue;
            }
            if count > 0 && count + machines.len() > most {
                next = format!("<nextToken>{last}</nextToken>");
                break;
            }
            (count, last) = (count + machines.len(), &reservation.id);
            let all: String = machines.into_iter().map(|it| it.shown.as_str()).collect();
            shown.push_str(&format!("<item>{}<instancesSet>{all}</instancesSet></item>", reservation.head));
        }
        Ok(answer("DescribeInstances", &format!("<reservationSet>{shown}</reservationSet>{next}")))
    }

    fn terminate(&mut self, params: &Params) -> Result<String, Stop> {
        let ids: BTreeSet<String> = self.known(params)?.into_iter().map(str::to_owned).collect();
        let why =
            "<code>Client.UserInitiatedShutdown</code><message>Client.UserInitiatedShutdown: User initiated shutdown</message>";
        let mut ended = String::new();
        for machine in self.reservations.iter_mut().flat_map(|it| &mut it.machines).filter(|it| ids.contains(&it.id)) {
            let to = "<code>32</code><name>shutting-down</name>";
            let from = if machine.lives { "<code>16</code><name>running</name>" } else { ENDED };
            ended.push_str(&format!(
                "<item><instanceId>{}</instanceId><currentState>{to}</currentState><previousState>{from}</previousState></item>",
                machine.id
            ));
            if std::mem::replace(&mut machine.lives, false) {
                let reason = "User initiated (2026-01-01 00:00:00 UTC)";
                machine.shown = edited(
                    &machine.shown,
                    &[(&["instanceState"], ENDED), (&["blockDeviceMapping"], ""), (&["stateReason"], why), (&["reason"], reason)],
                );
            }
        }
        Ok(answer("TerminateInstances", &format!("<instancesSet>{ended}</instancesSet>")))
    }

    /// The ids that a call names, if there are machines of all of them.
    fn known<'a>(&self, params: &'a Params) -> Result<BTreeSet<&'a str>, Stop> {
        let ids: BTreeSet<&str> = params.list("InstanceId").into_iter().collect();
        let all: BTreeSet<&str> = self.reservations.iter().flat_map(|it| &it.machines).map(|it| it.id.as_str()).collect();
        match ids.iter().find(|id| !all.contains(*id)) {
            Some(id) => Err(Refusal::rule("InvalidInstanceID.NotFound", &format!("The instance ID '{id}' does not exist")).into()),
            None => Ok(ids),
        }
    }
}

impl Machine {
    /// Filters that our provider and this proxy use.
    fn fits(&self, (name, values): &(String, BTreeSet<&str>)) -> bool {
        let has = |value: &str| values.contains(value);
        match name.as_str() {
            "instance-id" => has(&self.id),
            "instance-state-name" => has(if self.lives { "running" } else { "terminated" }),
            _ => {
                let key = name.strip_prefix("tag:").unwrap_or_else(|| panic!("held by us: no filter {name}"));
                self.tags.get(key).is_some_and(|value| has(value))
            }
        }
    }
}

/// The same machine with names and addresses of its own; `number` is never used twice and at most 4,000.
fn copy(mould: &str, number: u32, nth: u32) -> (String, String) {
    let document = parse(mould);
    let root = document.root_element();
    let (id, host) = (format!("i-{number:017x}"), number + 4);
    let old = text(root, &["privateIpAddress"]);
    // Subnets have 16 blocks of 256 addresses.
    let octets: Vec<u32> = old.split('.').map(|octet| octet.parse().unwrap()).collect();
    let address = format!("{}.{}.{}.{}", octets[0], octets[1], (octets[2] & 0xf0) + host / 256, host % 256);
    let mut fresh = vec![
        (text(root, &["instanceId"]).to_owned(), id.clone()),
        (old.to_owned(), address.clone()),
        (old.replace('.', "-"), address.replace('.', "-")),
        ("<amiLaunchIndex>0<".to_owned(), format!("<amiLaunchIndex>{nth}<")),
    ];
    for (at, disk) in items(root, &["blockDeviceMapping"]).into_iter().enumerate() {
        fresh.push((text(disk, &["ebs", "volumeId"]).to_owned(), format!("vol-{at:x}{number:016x}")));
    }
    for card in items(root, &["networkInterfaceSet"]) {
        fresh.push((text(card, &["attachment", "attachmentId"]).to_owned(), format!("eni-attach-{number:017x}")));
        fresh.push((text(card, &["networkInterfaceId"]).to_owned(), format!("eni-{number:017x}")));
        let [_, _, high, low] = number.to_be_bytes();
        fresh.push((text(card, &["macAddress"]).to_owned(), format!("02:00:01:00:{high:02x}:{low:02x}")));
    }
    (id, fresh.into_iter().fold(mould.to_owned(), |text, (old, new)| text.replace(&old, &new)))
}

fn tags(item: &str) -> BTreeMap<String, String> {
    let document = parse(item);
    let all = items(document.root_element(), &["tagSet"]);
    all.into_iter().map(|tag| (text(tag, &["key"]).to_owned(), text(tag, &["value"]).to_owned())).collect()
}

/// The same element with other contents at these paths.
fn edited(item: &str, contents: &[(&[&str], &str)]) -> String {
    let (document, mut edits) = (parse(item), Edits::default());
    contents.iter().for_each(|(path, content)| edits.set(document.root_element(), path, content));
    edits.apply(item)
}

fn answer(action: &str, inner: &str) -> String {
    format!("<{action}Response {XMLNS}>{inner}<requestId>request-id</requestId></{action}Response>")
}
