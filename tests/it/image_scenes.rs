//! Images from their registration to their end, on the simulated cloud: tried with a share, promoted or taken back on what was measured.

use crate::support::Bench;
use chrono::TimeDelta;
use sqlx::PgPool;
use uuid::Uuid;
use vm_service::admin::dry_run;
use vm_service::db::image_orders::{ImageOrder, OrderAnswer};
use vm_service::db::images::ImageFilter;
use vm_service::domain::ec2::Architecture;
use vm_service::domain::ids::{ImageId, ImageOrderId};
use vm_service::domain::image::{ImageFacts, ImageKind, ImageSource, ImageView, WantedImage};
use vm_service::domain::lifecycle::{ImageState, TaskState};
use vm_service::domain::plan::images::may_promote;
use vm_service::sim::{Rules, SimImage};

pub(crate) fn wanted(name: &str) -> WantedImage {
    WantedImage {
        source: ImageSource::Folder { hash: name.to_owned(), host: None },
        name: name.to_owned(),
        kind: ImageKind::Base,
        architecture: Architecture::X86_64,
        facts: ImageFacts::default(),
    }
}

impl Bench {
    /// Asks for these to be registered, and turns until that is answered.
    pub(crate) async fn register(&self, wanted: Vec<WantedImage>, share: u32) -> Result<Vec<ImageId>, String> {
        let id = ImageOrderId(Uuid::new_v4());
        let order = ImageOrder { id, principal: "op".to_owned(), wanted, share, created_at: self.now() };
        self.db.insert_image_order(&order).await.unwrap();
        for _ in 0..70 {
            self.turn(1).await;
            match self.db.find_image_answer(id).await.unwrap() {
                Some(OrderAnswer::Done { images, .. }) => return Ok(images),
                Some(OrderAnswer::Refused(sentence)) => return Err(sentence),
                None => {}
            }
        }
        panic!("nobody answers");
    }

    /// A registered image that is there.
    pub(crate) async fn image(&self, name: &str, share: u32) -> ImageId {
        self.sim.put_image(name, SimImage::default());
        self.register(vec![wanted(name)], share).await.unwrap()[0]
    }

    pub(crate) async fn promote(&self, image: ImageId) {
        assert!(self.db.promote_image(image, true, "op", self.now()).await.unwrap());
    }

    pub(crate) async fn view(&self, image: ImageId) -> ImageView {
        let filter = ImageFilter { ids: Some(vec![image]), limit: 1, ..ImageFilter::default() };
        self.db.list_image_views(&filter).await.unwrap().remove(0)
    }

    /// How many live machines are made of this image.
    fn made_of(&self, image: &str) -> usize {
        self.sim.live().values().filter(|machine| machine.image.as_deref() == Some(image)).count()
    }

    async fn events(&self, kind: &str) -> Vec<String> {
        let sql = "select message from vms.events where kind = $1 order by id";
        sqlx::query_scalar(sql).bind(kind).fetch_all(&self.db.pool).await.unwrap()
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_the_provider_does_not_have_is_not_registered_nor_what_is_beside_it(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.put_image("good", SimImage::default());
    bench.sim.put_image("pending", SimImage { unusable: Some("it is pending".to_owned()), ..SimImage::default() });
    bench.sim.put_image("arm", SimImage { architecture: Architecture::Arm64, ..SimImage::default() });
    for (bad, because) in [
        ("nothing", "There is no image nothing in sim"),
        ("pending", "No machine can be made of pending in sim: it is pending."),
        ("arm", "arm in sim is for arm64, and its manifest says x86_64"),
    ] {
        let said = bench.register(vec![wanted("good"), wanted(bad)], 0).await.unwrap_err();
        assert!(said.starts_with(because), "{said}");
    }
    let elsewhere =
        WantedImage { source: ImageSource::Ami { region: "eu-west-1".to_owned(), id: "ami-1".to_owned() }, ..wanted("x") };
    assert!(bench.register(vec![elsewhere], 0).await.unwrap_err().starts_with("No provider of this service could have ami-1"));
    assert_eq!(bench.count("select count(*) from vms.images").await, 0, "all or nothing");

    let first = bench.register(vec![wanted("good")], 0).await.unwrap();
    assert_eq!(bench.register(vec![wanted("good")], 50).await.unwrap(), first, "again is the same");
    assert_eq!((bench.view(first[0]).await.share, bench.count("select count(*) from vms.images").await), (0, 1));
    let other = WantedImage { kind: ImageKind::Gpu, ..wanted("good") };
    assert!(bench.register(vec![other], 0).await.unwrap_err().contains("registered as an image of the kind base"));
    bench.sim.put_image("a", SimImage::default());
    bench.sim.put_image("b", SimImage::default());
    assert!(bench.register(vec![wanted("a"), wanted("b")], 51).await.unwrap_err().contains("more than all launches"));
    assert_eq!(bench.count("select count(*) from vms.images").await, 1, "all or nothing");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_candidate_gets_its_share_is_measured_and_promoted(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.set_boot_time(TimeDelta::seconds(4));
    let old = bench.image("old", 0).await;
    bench.promote(old).await;
    let new = bench.image("new", 30).await;
    bench.sim.put_image("new", SimImage { slower: TimeDelta::seconds(2), ..SimImage::default() });
    let mut of_new = 0;
    for n in 0..40 {
        let (task, _, machine) = bench.job(&format!("p{n}")).await;
        of_new += i32::from(bench.sim.live()[&machine].image.as_deref() == Some("new"));
        bench.db.release_task(task, bench.now()).await.unwrap();
    }
    bench.turn(10).await;
    assert!((4..=20).contains(&of_new), "{of_new} of 40, where 12 are expected");
    let view = bench.view(new).await;
    let (own, others) = (view.figures, view.promoted.unwrap());
    assert_eq!((own.ready, own.failed, own.tasks, own.tasks_failed), (u32::try_from(of_new).unwrap(), 0, own.ready, 0));
    assert_eq!((own.vms + others.vms, others.ready), (40, others.vms));
    let (median, other) = (own.median_ms.unwrap(), others.median_ms.unwrap());
    assert!((1_000..=3_000).contains(&(median - other)), "{median} after {other}: two seconds later");
    assert!(own.p90_ms.unwrap() >= median);

    may_promote(&own, Some(&others)).unwrap();
    assert!(bench.db.promote_image(new, false, "op", bench.now()).await.unwrap());
    assert_eq!(
        (bench.view(old).await.state, bench.view(old).await.reason.as_deref()),
        (ImageState::Retired, Some("new was promoted"))
    );
    for n in 0..10 {
        let (_, _, machine) = bench.job(&format!("q{n}")).await;
        assert_eq!(bench.sim.live()[&machine].image.as_deref(), Some("new"));
    }
    bench.promote(old).await;
    let (_, _, machine) = bench.job("back").await;
    assert_eq!(bench.sim.live()[&machine].image.as_deref(), Some("old"), "back to the one before");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_candidate_that_does_not_boot_is_taken_back_and_jobs_go_on(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| (settings.timeouts.vm_start_ms, settings.timeouts.ssh_connect_ms) = (20_000, 10_000)).await;
    let good = bench.image("good", 0).await;
    bench.promote(good).await;
    let bad = bench.image("bad", 100).await;
    bench.sim.put_image("bad", SimImage { boots: false, ..SimImage::default() });
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Ready, 400).await;
    let view = bench.view(bad).await;
    assert_eq!((view.share, view.figures.failed, view.figures.ready), (0, 3, 0));
    assert!(view.reason.as_ref().unwrap().starts_with("taken back: its first 3 boots failed, the last because"), "{view:?}");
    assert_eq!(bench.events("image.taken_back").await.len(), 1);
    assert!(may_promote(&view.figures, view.promoted.as_ref()).unwrap_err().contains("3 failed"));
    let machine = bench.task(task).await.view.vm.unwrap().provider_id.unwrap();
    assert_eq!(bench.sim.live()[&machine].image.as_deref(), Some("good"));
}

/// A vanished image is not launched, and what is asked for then goes to the one below it.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_image_that_vanishes_is_noted_at_the_launch_and_by_the_collection(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let gone = bench.image("gone", 0).await;
    bench.promote(gone).await;
    bench.sim.drop_image("gone");
    let (_, _, machine) = bench.job("p").await;
    assert_eq!(bench.sim.live()[&machine].image.as_deref(), Some("image-of-all"), "the default, and the job did not wait long");
    assert_eq!(bench.view(gone).await.missing_at.is_some(), bench.events("image.missing").await.len() == 1);
    assert!(bench.view(gone).await.missing_at.is_some());
    bench.sim.put_image("gone", SimImage::default());
    bench.clock.advance(TimeDelta::minutes(5));
    bench.turn(2).await;
    assert_eq!(bench.view(gone).await.missing_at, None);
    bench.sim.put_image("gone", SimImage { unusable: Some("it is disabled".to_owned()), ..SimImage::default() });
    bench.clock.advance(TimeDelta::minutes(5));
    bench.turn(2).await;
    assert!(bench.view(gone).await.missing_at.is_some(), "without any launch");
}

/// Never below the base, at most two extra at a time, and then it is over.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn free_vms_move_over_after_a_promotion_a_few_at_a_time(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 5).await;
    bench.turn_until_states("available 5", 10).await;
    let new = bench.image("new", 0).await;
    bench.turn(30).await;
    assert_eq!(bench.made_of("image-of-all"), 5, "a candidate without a share changes nothing");
    bench.sim.set_boot_time(TimeDelta::seconds(5));
    bench.promote(new).await;
    for _ in 0..120 {
        bench.turn(1).await;
        let free = bench.count("select count(*) from vms.vms where state = 'available'").await;
        let all =
            bench.count("select count(*) from vms.vms where state in ('requested', 'launching', 'booting', 'available')").await;
        assert!(free >= 5 && all <= 7, "{}", bench.states().await);
    }
    assert_eq!((bench.made_of("new"), bench.states().await.as_str()), (5, "available 5"));
    let launches = bench.sim.calls("launch");
    bench.turn(60).await;
    assert_eq!(bench.sim.calls("launch"), launches, "once, and not again");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_large_launch_is_shared_too(pool: PgPool) {
    let bench = Bench::with(pool, Rules { max_batch: 1000, ..Rules::obliging() }).await;
    let old = bench.image("old", 0).await;
    bench.promote(old).await;
    bench.image("new", 50).await;
    bench.set(|settings| settings.preallocated.machine = 40).await;
    bench.turn_until_states("available 40", 30).await;
    let of_new = bench.made_of("new");
    assert!((4..=36).contains(&of_new), "{of_new} of 40 in ten launches, where 20 are expected");
    assert_eq!(bench.sim.calls("launch"), 10);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn retired_images_go_when_they_are_old_and_nothing_needs_them(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| (settings.timeouts.task_hours, settings.timeouts.vm_idle_hours) = (168, 168)).await;
    let used = bench.image("used", 0).await;
    bench.promote(used).await;
    bench.set(|settings| settings.preallocated.machine = 0).await;
    let (task, vm, _) = bench.job("p").await;
    bench.hold(vm, TimeDelta::days(60)).await;
    let mut all = Vec::new();
    for name in ["idle", "named", "theirs", "now"] {
        let image = bench.image(name, 0).await;
        bench.promote(image).await;
        all.push(image);
    }
    bench.sim.put_image("theirs", SimImage { ours: false, ..SimImage::default() });
    bench.set(|settings| drop(settings.ec2.images.insert("eu-west-1".to_owned(), "named".to_owned()))).await;
    bench.turn_by(13 * 24, TimeDelta::hours(1)).await;
    assert_eq!(bench.sim.image_names(), ["idle", "named", "now", "theirs", "used"], "kept for two weeks");
    assert_eq!(dry_run::look(&bench.world, bench.now()).await.unwrap(), []);
    bench.clock.advance(TimeDelta::hours(25));
    let would: Vec<_> =
        dry_run::look(&bench.world, bench.now()).await.unwrap().into_iter().filter(|it| it.what.starts_with("image")).collect();
    let told: Vec<_> = would.iter().map(|it| (it.action, it.what.as_str())).collect();
    assert_eq!(told, [("delete", "image idle"), ("delete", "image theirs")]);
    assert_eq!(would[0].why, "it was retired 14 days ago, and nothing needs it.");
    bench.turn(3).await;
    assert_eq!(bench.sim.image_names(), ["named", "now", "theirs", "used"]);
    let theirs = bench.view(all[2]).await;
    assert_eq!(theirs.state, ImageState::Retired);
    assert!(theirs.reason.unwrap().starts_with("not deleted: UnauthorizedOperation"));
    assert_eq!(bench.view(all[0]).await.state, ImageState::Deleted);
    assert_eq!(bench.events("image.deleted").await, ["Image idle is deleted."]);

    bench.db.set_vm_hold(vm, None, "op", bench.now()).await.unwrap();
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(20).await;
    bench.clock.advance(TimeDelta::minutes(6));
    bench.turn(3).await;
    assert_eq!(bench.sim.image_names(), ["named", "now", "theirs"], "when its last VM is gone");
}
