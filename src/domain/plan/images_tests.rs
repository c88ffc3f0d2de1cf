use super::*;
use uuid::Uuid;

fn image(name: &str, state: ImageState, share: u32) -> Registered {
    Registered {
        id: ImageId(Uuid::from_u128(1)),
        provider_id: name.to_owned(),
        architecture: Architecture::X86_64,
        kind: ImageKind::Base,
        state,
        share,
        missing: false,
    }
}

/// How many of a hundred launches take what.
fn taken(offer: &Offer<'_>) -> Vec<(String, usize)> {
    let all: Vec<String> = (0..100).map(|drawn| offer.take(drawn).unwrap().unwrap_or_else(|| "default".to_owned())).collect();
    let names: BTreeSet<&String> = all.iter().collect();
    names.into_iter().map(|name| (name.clone(), all.iter().filter(|it| *it == name).count())).collect()
}

fn only(name: &str) -> Vec<(String, usize)> {
    vec![(name.to_owned(), 100)]
}

#[test]
fn class_then_settings_then_candidates_by_share_then_the_promoted_then_the_default() {
    let registered = [
        image("old", ImageState::Retired, 0),
        image("now", ImageState::Promoted, 0),
        image("a", ImageState::Candidate, 10),
        image("b", ImageState::Candidate, 5),
        image("idle", ImageState::Candidate, 0),
    ];
    let mut offer = Offer { registered: &registered, default: Some("d".to_owned()), ..Offer::default() };
    let shares = [("a".to_owned(), 10), ("b".to_owned(), 5), ("now".to_owned(), 85)];
    assert_eq!((taken(&offer), offer.is_shared()), (shares.to_vec(), true));
    offer.of_settings = Some("s".to_owned());
    assert_eq!((taken(&offer), offer.is_shared()), (only("s"), false));
    offer.of_class = Some("c".to_owned());
    assert_eq!(taken(&offer), only("c"));
    assert_eq!(taken(&Offer { registered: &registered[..1], default: Some("d".to_owned()), ..Offer::default() }), only("d"));
    assert_eq!(taken(&Offer { registered: &registered[..1], ..Offer::default() }), only("default"));
    let launch = LaunchId(Uuid::from_u128(0x1234_5678));
    assert_eq!(offer.choose(launch), offer.choose(launch), "the same launch, the same image");
}

fn offer(registered: &[Registered]) -> Offer<'_> {
    Offer { registered, ..Offer::default() }
}

#[test]
fn draws_fall_evenly_over_random_ids_and_over_numbered_ones() {
    for step in [1, 3, 5, 0x1_0000_0001_0000_0001] {
        let below = (0..1000_u128).filter(|n| drawn(LaunchId(Uuid::from_u128(n * step))) < 10).count();
        assert!((70..130).contains(&below), "{below} of 1000 below 10 %, in steps of {step}");
        assert!((0..1000_u128).all(|n| drawn(LaunchId(Uuid::from_u128(n * step))) < 100));
    }
}

#[test]
fn only_what_fits_and_is_there_is_taken() {
    let mut registered = [image("now", ImageState::Promoted, 0), image("a", ImageState::Candidate, 100)];
    registered[1].missing = true;
    assert_eq!(taken(&offer(&registered)), only("now"), "a vanished one is not");
    registered[1] = Registered { architecture: Architecture::Arm64, ..image("a", ImageState::Candidate, 100) };
    assert_eq!(taken(&offer(&registered)), only("now"));
    registered[1] = Registered { kind: ImageKind::Gpu, ..image("a", ImageState::Candidate, 100) };
    assert_eq!(taken(&offer(&registered)), only("now"));
    registered[0].missing = true;
    assert_eq!(taken(&offer(&registered)), only("default"));
}

#[test]
fn a_retired_image_is_never_taken_whoever_names_it() {
    let registered = [image("old", ImageState::Retired, 0)];
    let launch = LaunchId(Uuid::from_u128(1));
    let class = Offer { of_class: Some("old".to_owned()), registered: &registered, ..Offer::default() };
    let settings = Offer { of_settings: Some("old".to_owned()), registered: &registered, ..Offer::default() };
    let default = Offer { default: Some("old".to_owned()), registered: &registered, ..Offer::default() };
    for offer in [class, settings, default] {
        assert!(offer.choose(launch).unwrap_err().contains("is retired: name another"), "{offer:?}");
        assert!(!offer.fit().is_outdated(Some("old")), "without another there is nothing to replace it by");
    }
}

#[test]
fn gpus_need_an_image_for_them_and_take_that_of_all_classes_last() {
    let registered = [image("now", ImageState::Promoted, 0)];
    let gpu = Offer { kind: ImageKind::Gpu, registered: &registered, default: Some("d".to_owned()), ..Offer::default() };
    assert!(gpu.choose(LaunchId(Uuid::from_u128(1))).unwrap_err().contains("kind gpu"));
    let gpu = Offer { of_settings: Some("s".to_owned()), ..gpu };
    assert_eq!(taken(&gpu), only("s"));
    let registered = [Registered { kind: ImageKind::Gpu, ..image("cuda", ImageState::Promoted, 0) }];
    assert_eq!(taken(&Offer { registered: &registered, ..gpu.clone() }), only("cuda"));
    assert_eq!(taken(&Offer { registered: &registered, of_class: Some("c".to_owned()), ..gpu }), only("c"));
}

#[test]
fn a_free_vm_is_outdated_when_no_launch_would_take_its_image() {
    let registered =
        [image("old", ImageState::Retired, 0), image("now", ImageState::Promoted, 0), image("new", ImageState::Candidate, 5)];
    let fit = Offer { registered: &registered, ..Offer::default() }.fit();
    let outdated = |image| fit.is_outdated(image);
    assert_eq!([Some("now"), Some("new"), Some("old"), Some("canonical"), None].map(outdated), [false, false, true, true, false]);
    let fit = Offer { registered: &registered[..1], ..Offer::default() }.fit();
    assert_eq!([Some("old"), Some("canonical"), None].map(|image| fit.is_outdated(image)), [true, false, false]);
    let fit = Offer { registered: &registered[2..], ..Offer::default() }.fit();
    assert_eq!([Some("new"), Some("canonical")].map(|image| fit.is_outdated(image)), [false, false]);
}

#[test]
fn a_candidate_without_a_good_boot_or_clearly_worse_is_not_promoted() {
    let good = ImageFigures {
        vms: 20,
        ready: 19,
        failed: 1,
        median_ms: Some(20_000),
        tasks: 20,
        tasks_failed: 0,
        ..ImageFigures::default()
    };
    let few = ImageFigures { vms: 1, ready: 1, median_ms: Some(60_000), ..ImageFigures::default() };
    may_promote(&few, Some(&good)).unwrap();
    may_promote(&few, None).unwrap();
    may_promote(&good, Some(&good)).unwrap();
    let refused = |candidate: ImageFigures| may_promote(&candidate, Some(&good)).unwrap_err();
    assert!(refused(ImageFigures::default()).contains("none was tried"));
    assert!(refused(ImageFigures { failed: 2, ..ImageFigures::default() }).contains("2 failed"));
    assert!(
        refused(ImageFigures { ready: 8, failed: 2, ..good }).contains("20 % of its boots failed, of the promoted image's 5 %")
    );
    assert!(refused(ImageFigures { ready: 3, failed: 0, median_ms: Some(31_000), ..few }).contains("31 s to be ready"));
    may_promote(&ImageFigures { ready: 3, median_ms: Some(29_000), ..few }, Some(&good)).unwrap();
    assert!(refused(ImageFigures { tasks_failed: 2, ..good }).contains("10 % of its tasks"));
    may_promote(&ImageFigures { tasks_failed: 1, ..good }, Some(&good)).unwrap();
}
