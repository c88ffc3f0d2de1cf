//! Where the time of one task went, from its events and from the service's log. All lengths are milliseconds.
//!
//! An event's time is the moment at which the loop that wrote it began its tick or had its result, so the writing itself belongs to the
//! span behind it. Service, log and benchmark read the clock of one host.

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use vm_service::domain::api::EventView;

/// `total` is the sum of `personalise` and the seven spans before it in this list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spans {
    /// To the tick of the loop that wished for a VM.
    pub(crate) put_to_requested: f64,
    /// The row, its launch, and QEMU's greeting.
    pub(crate) requested_to_launched: f64,
    /// To the tick that found the machine running.
    pub(crate) launched_to_booting: f64,
    /// Its identity is made and written.
    pub(crate) booting_to_contact: f64,
    pub(crate) personalised_to_available: f64,
    /// The row, and the wake-up of the loop that assigns.
    pub(crate) available_to_ready: f64,
    /// The claim, the wake-up of the client's poll, and its answer.
    pub(crate) ready_to_seen: f64,
    /// From the first try to meet the machine until it is what it must be.
    pub(crate) personalise: f64,
    pub(crate) total: f64,

    /// To the answer of the PUT; the launch does not wait for it.
    pub(crate) put_answer: f64,
    /// Of `requested_to_launched`: overlay, seed, keeper, QEMU's greeting.
    pub(crate) provider_launch: f64,
    /// From the PUT to the start of QEMU's process.
    pub(crate) before_qemu: f64,
    /// From the start of QEMU's process to a session under the bootstrap key.
    pub(crate) qemu_to_session: f64,
    pub(crate) connect: f64,
    pub(crate) bundle: f64,
    pub(crate) verify: f64,
}

impl Spans {
    pub(crate) fn own_share(&self) -> f64 {
        self.total - self.personalise
    }

    pub(crate) fn after_guest(&self) -> f64 {
        self.personalised_to_available + self.available_to_ready + self.ready_to_seen
    }
}

/// What the benchmark itself saw of one task.
pub(crate) struct Seen {
    pub(crate) put_sent: DateTime<Utc>,
    pub(crate) put_answered: DateTime<Utc>,
    pub(crate) ready_seen: DateTime<Utc>,
    pub(crate) qemu_started: DateTime<Utc>,
}

/// The lines of the service's log about one VM.
pub(crate) struct LogLines<'a> {
    pub(crate) text: &'a str,
    /// Where the VM answers: `address:port`.
    pub(crate) ssh: String,
    pub(crate) provider_id: String,
}

impl LogLines<'_> {
    fn find(&self, words: [&str; 2]) -> anyhow::Result<&str> {
        let mut lines = self.text.lines().rev();
        lines
            .find(|line| words.iter().all(|word| line.contains(word)))
            .with_context(|| format!("the log has no line with {words:?}"))
    }

    fn of_guest(&self, what: &str) -> anyhow::Result<&str> {
        self.find([&format!("ssh={} ", self.ssh), what]).or_else(|_| self.find([&format!("ssh={}}}", self.ssh), what]))
    }

    /// When it was written.
    fn at(line: &str) -> anyhow::Result<DateTime<Utc>> {
        let stamp = line.split(' ').next().unwrap_or_default();
        Ok(DateTime::parse_from_rfc3339(stamp).with_context(|| format!("no time begins the line: {line}"))?.to_utc())
    }

    /// The last number behind `name=`.
    fn number(line: &str, name: &str) -> anyhow::Result<f64> {
        let after = line.rsplit_once(&format!(" {name}=")).map(|(_, after)| after).unwrap_or_default();
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().with_context(|| format!("no {name}= in the line: {line}"))
    }

    fn step(&self, step: &str) -> anyhow::Result<f64> {
        Self::number(self.of_guest(&format!("step=\"{step}\""))?, "ms")
    }
}

impl Spans {
    pub(crate) fn of(seen: &Seen, events: &[EventView], log: &LogLines<'_>) -> anyhow::Result<Self> {
        let at = |kind: &str| -> anyhow::Result<DateTime<Utc>> {
            let event = events.iter().find(|event| event.kind == kind);
            event.map(|event| event.at).with_context(|| format!("no event {kind} among {events:?}"))
        };
        let (requested, launched, booting) = (at("vm.requested")?, at("vm.launched")?, at("vm.booting")?);
        let (available, ready) = (at("vm.available")?, at("task.ready")?);
        let line = log.of_guest("total_ms=")?;
        let (personalised, personalise) = (LogLines::at(line)?, LogLines::number(line, "total_ms")?);
        // The log tells when the guest's work ended, and how long it was.
        let to_contact = |from| ms(personalised - from) - personalise;
        let started = log.find([&format!("provider_id={}", log.provider_id), "machine started"])?;
        // One that goes on from a snapshot is there.
        let connect = if started.contains("restored=true") { 0.0 } else { log.step("connect_ms")? };
        Ok(Self {
            put_to_requested: ms(requested - seen.put_sent),
            requested_to_launched: ms(launched - requested),
            launched_to_booting: ms(booting - launched),
            booting_to_contact: to_contact(booting),
            personalised_to_available: ms(available - personalised),
            available_to_ready: ms(ready - available),
            ready_to_seen: ms(seen.ready_seen - ready),
            personalise,
            total: ms(seen.ready_seen - seen.put_sent),
            put_answer: ms(seen.put_answered - seen.put_sent),
            provider_launch: LogLines::number(started, "milliseconds")?,
            before_qemu: ms(seen.qemu_started - seen.put_sent),
            qemu_to_session: to_contact(seen.qemu_started) + connect,
            connect,
            bundle: log.step("bundle_ms")?,
            verify: log.step("verify_ms")?,
        })
    }
}

fn ms(length: TimeDelta) -> f64 {
    length.as_seconds_f64() * 1000.0
}
