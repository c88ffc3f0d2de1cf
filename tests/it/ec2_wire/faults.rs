//! What can go wrong on purpose: each fault strikes the next calls that it fits, as often as it says; nothing else goes wrong.

use super::answer::Refusal;
use std::sync::Mutex;
use std::time::Duration;

/// One thing that goes wrong, once unless it says otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    action: String,
    kind: Kind,
    place: Place,
    /// `None` is until it is lifted.
    left: Option<u32>,
}

/// How it goes wrong.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Refused before anything else, whatever the call says.
    Refuse(Refusal),
    /// A new effect is refused; a repeated token still gets its first answer.
    NoEffect(Refusal),
    Cut,
    LoseAnswer,
    Slow(Duration),
    Fewer(u32),
    Unknown(Duration),
    Unlisted(Duration),
    StuckAttach,
    StuckDetach,
    Pending(Duration),
    Damage,
}

/// Which machines a fault is about; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
struct Place {
    instance_type: Option<String>,
    zone: Option<String>,
    spot: Option<bool>,
}

/// What a launch or a start asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) instance_type: String,
    pub(super) zone: String,
    pub(super) spot: bool,
}

/// Every action.
const ANY: &str = "*";

impl Fault {
    fn new(action: &str, kind: Kind) -> Self {
        Self { action: action.to_owned(), kind, place: Place::default(), left: Some(1) }
    }

    /// Refused with this status and code before anything else; `*` is every action.
    pub(crate) fn refuse(action: &str, status: u16, code: &str) -> Self {
        Self::new(action, Kind::Refuse(Refusal::new(status, code, "a test wants it so")))
    }

    /// Asked too fast, whatever the budgets say.
    pub(crate) fn throttle(action: &str) -> Self {
        Self::new(action, Kind::Refuse(Refusal::throttled()))
    }

    /// The caller has no right to this action.
    pub(crate) fn unauthorized(action: &str) -> Self {
        Self::refuse(action, 403, "UnauthorizedOperation")
    }

    /// The credentials are not known.
    pub(crate) fn auth_failure() -> Self {
        Self::refuse(ANY, 401, "AuthFailure")
    }

    /// The signature or the session is too old.
    pub(crate) fn expired() -> Self {
        Self::refuse(ANY, 400, "RequestExpired")
    }

    /// AWS has trouble of its own; nothing happened.
    pub(crate) fn internal_error(action: &str) -> Self {
        Self::refuse(action, 500, "InternalError")
    }

    /// The connection is cut before anything happens.
    pub(crate) fn cut(action: &str) -> Self {
        Self::new(action, Kind::Cut)
    }

    /// The call is done, and the connection is cut instead of an answer.
    pub(crate) fn lose_answer(action: &str) -> Self {
        Self::new(action, Kind::LoseAnswer)
    }

    /// The call waits so long in real time before anything happens.
    pub(crate) fn slow(action: &str, time: Duration) -> Self {
        Self::new(action, Kind::Slow(time))
    }

    /// No room for a launch (`RunInstances`, `CreateFleet`) or a start (`StartInstances`); narrow it with [`Fault::of_type`],
    /// [`Fault::in_zone`] and [`Fault::market`]. AWS sends it as status 500.
    pub(crate) fn no_capacity(action: &str) -> Self {
        let refusal = Refusal::new(500, "InsufficientInstanceCapacity", "We currently do not have sufficient capacity.");
        Self::new(action, Kind::NoEffect(refusal))
    }

    /// A quota of the account: `VcpuLimitExceeded`, `InstanceLimitExceeded`, `MaxSpotInstanceCountExceeded` …
    pub(crate) fn quota(action: &str, code: &str) -> Self {
        Self::new(action, Kind::NoEffect(Refusal::new(400, code, "You have requested more than your current limit allows.")))
    }

    /// A launch gives this many machines at most, but its `MinCount`.
    pub(crate) fn fewer(count: u32) -> Self {
        Self::new("RunInstances", Kind::Fewer(count))
    }

    /// Calls that name what a launch has made do not know it yet, for so long on the cloud's clock.
    pub(crate) fn unknown_for(time: Duration) -> Self {
        Self::new("RunInstances", Kind::Unknown(time))
    }

    /// Lists do not hold yet what `RunInstances` or `CreateVolume` has made, for so long on the cloud's clock.
    pub(crate) fn unlisted_for(action: &str, time: Duration) -> Self {
        Self::new(action, Kind::Unlisted(time))
    }

    /// An attachment stays `attaching` until the volume is detached or the machine has ended.
    pub(crate) fn stuck_attach() -> Self {
        Self::new("AttachVolume", Kind::StuckAttach)
    }

    /// A detachment stays `detaching` until the machine has ended.
    pub(crate) fn stuck_detach() -> Self {
        Self::new("DetachVolume", Kind::StuckDetach)
    }

    /// The next snapshot is `pending` for so long on the cloud's clock.
    pub(crate) fn pending_for(time: Duration) -> Self {
        Self::new("CreateSnapshot", Kind::Pending(time))
    }

    /// The next block comes with a wrong byte, and the checksum of the right ones.
    pub(crate) fn damaged_block() -> Self {
        Self::new("GetSnapshotBlock", Kind::Damage)
    }

    /// In these words.
    #[must_use]
    pub(crate) fn saying(mut self, message: &str) -> Self {
        if let Kind::Refuse(refusal) | Kind::NoEffect(refusal) = &mut self.kind {
            refusal.message = message.to_owned();
        }
        self
    }

    /// The next `count` calls that it fits.
    #[must_use]
    pub(crate) fn times(mut self, count: u32) -> Self {
        self.left = Some(count);
        self
    }

    /// Every call that it fits, until it is lifted.
    #[must_use]
    pub(crate) fn always(mut self) -> Self {
        self.left = None;
        self
    }

    /// Only for machines of this type.
    #[must_use]
    pub(crate) fn of_type(mut self, name: &str) -> Self {
        self.place.instance_type = Some(name.to_owned());
        self
    }

    /// Only for machines in this zone.
    #[must_use]
    pub(crate) fn in_zone(mut self, zone: &str) -> Self {
        self.place.zone = Some(zone.to_owned());
        self
    }

    /// Only on the spot market, or only off it.
    #[must_use]
    pub(crate) fn market(mut self, spot: bool) -> Self {
        self.place.spot = Some(spot);
        self
    }
}

impl Place {
    fn fits(&self, wanted: Option<&Wanted>) -> bool {
        let Some(wanted) = wanted else {
            return self.instance_type.is_none() && self.zone.is_none() && self.spot.is_none();
        };
        self.instance_type.as_ref().is_none_or(|name| *name == wanted.instance_type)
            && self.zone.as_ref().is_none_or(|zone| *zone == wanted.zone)
            && self.spot.is_none_or(|spot| spot == wanted.spot)
    }
}

/// What is to go wrong, in the order in which it was injected.
#[derive(Default)]
pub(super) struct Faults(Mutex<(u64, Vec<(u64, Fault)>)>);

impl Faults {
    pub(super) fn inject(&self, fault: Fault) -> u64 {
        let mut faults = self.0.lock().unwrap();
        faults.0 += 1;
        let number = faults.0;
        faults.1.push((number, fault));
        number
    }

    pub(super) fn lift(&self, number: Option<u64>) {
        self.0.lock().unwrap().1.retain(|(other, _)| number.is_some_and(|number| number != *other));
    }

    /// How many faults still wait for a call.
    pub(super) fn waiting(&self) -> usize {
        self.0.lock().unwrap().1.len()
    }

    /// The first fault that fits and that `pick` takes; it is used up by one.
    pub(super) fn strike<T>(&self, action: &str, wanted: Option<&Wanted>, pick: impl Fn(&Kind) -> Option<T>) -> Option<T> {
        let faults = &mut self.0.lock().unwrap().1;
        let fits = |fault: &Fault| (fault.action == action || fault.action == ANY) && fault.place.fits(wanted);
        let (at, found) =
            faults.iter().enumerate().filter(|(_, (_, fault))| fits(fault)).find_map(|(at, (_, f))| Some((at, pick(&f.kind)?)))?;
        if let Some(left) = &mut faults[at].1.left {
            *left -= 1;
            if *left == 0 {
                faults.remove(at);
            }
        }
        Some(found)
    }
}
