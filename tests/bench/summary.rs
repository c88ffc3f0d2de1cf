//! From pairs to figures. All are milliseconds; what a name says is in [`super`] and in [`super::spans`].

use crate::Pair;
use crate::report::{Report, median, most};
use crate::spans::Spans;

/// A name, and what it takes from one VM's spans.
type Figure = (&'static str, fn(&Spans) -> f64);

/// `own_share_bar`: of the service's own share, milliseconds.
pub(crate) fn tell(report: &mut Report, pairs: &[Pair], own_share_bar: u32) -> anyhow::Result<()> {
    let of = |what: fn(&Spans) -> f64| pairs.iter().map(|pair| what(&pair.service)).collect::<Vec<f64>>();
    let (total, own) = (of(|s| s.total), of(Spans::own_share));
    let bare: Vec<f64> = pairs.iter().map(|pair| pair.bare.command).collect();
    report.medians("service_ready", &total)?;
    report.medians("bare_ssh", &bare)?;
    report.figure("service_over_bare", median(&total) / median(&bare), "ratio")?;
    report.figure("bare_over_service", median(&bare) / median(&total), "ratio")?;
    let ratios: Vec<f64> = pairs.iter().map(|pair| pair.service.total / pair.bare.command).collect();
    report.figure("service_over_bare_median_of_pairs", median(&ratios), "ratio")?;

    report.line("# own share: all time in which the guest was not being worked on; its spans add up to it")?;
    report.figure_with_bar("own_share_median", median(&own), own_share_bar, "ms")?;
    report.figure_with_bar("own_share_max", most(&own), own_share_bar, "ms")?;
    let outside: [Figure; 7] = [
        ("own_put_to_requested", |s| s.put_to_requested),
        ("own_requested_to_launched", |s| s.requested_to_launched),
        ("own_launched_to_booting", |s| s.launched_to_booting),
        ("own_booting_to_contact", |s| s.booting_to_contact),
        ("own_personalised_to_available", |s| s.personalised_to_available),
        ("own_available_to_ready", |s| s.available_to_ready),
        ("own_ready_to_seen", |s| s.ready_to_seen),
    ];
    tell_all(report, &outside, &of)?;
    report.line(
        "# of these: before QEMU's process and after the guest's work nothing else goes on; between, the guest boots already",
    )?;
    let lone: [Figure; 5] = [
        ("own_put_answer", |s| s.put_answer),
        ("own_provider_launch", |s| s.provider_launch),
        ("own_before_qemu", |s| s.before_qemu),
        ("own_after_guest", Spans::after_guest),
        ("own_not_overlapped", |s| s.before_qemu + s.after_guest()),
    ];
    tell_all(report, &lone, &of)?;

    report.line(
        "# the guest's work; beyond a bare boot: QEMU's process to the SSH session, less the same of the bare VM of its pair",
    )?;
    let guest: [Figure; 4] = [
        ("guest_personalise", |s| s.personalise),
        ("guest_connect", |s| s.connect),
        ("guest_bundle", |s| s.bundle),
        ("guest_verify", |s| s.verify),
    ];
    tell_all(report, &guest, &of)?;
    let session: Vec<f64> = pairs.iter().map(|pair| pair.bare.session).collect();
    report.figure("bare_session_median", median(&session), "ms")?;
    let beyond: Vec<f64> = pairs.iter().map(|pair| pair.service.qemu_to_session - pair.bare.session).collect();
    report.figure("guest_session_beyond_bare_median", median(&beyond), "ms")
}

fn tell_all(report: &mut Report, spans: &[Figure], of: &impl Fn(fn(&Spans) -> f64) -> Vec<f64>) -> anyhow::Result<()> {
    for (name, span) in spans {
        let values = of(*span);
        report.figure(&format!("{name}_median"), median(&values), "ms")?;
        report.figure(&format!("{name}_max"), most(&values), "ms")?;
    }
    Ok(())
}
