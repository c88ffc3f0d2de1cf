//! `vm-service cache seed` and `cache diff`: an image becomes a generation of a lineage, and two of them are compared.

use super::alone::Alone;
use super::blocks::{BLOCK, Image, MIB};
use crate::ec2_doctor::{OURS, run, with_key};
use crate::ec2_wire::faults::Fault;
use crate::ec2_wire::rules::Rules;
use crate::service::text;
use crate::support::lineage;
use uuid::Uuid;
use vm_service::admin::cache::diff::{Changes, Compare as _, Range};
use vm_service::admin::cache::seed::{seed_snapshot, spec_for};
use vm_service::domain::ec2::Authentication;
use vm_service::domain::ids::GenerationId;
use vm_service::provider::volumes::Volumes as _;

fn generation(number: u128) -> GenerationId {
    GenerationId(Uuid::from_u128(number))
}

#[tokio::test]
async fn a_seed_is_a_generation_of_its_lineage_and_goes_on_under_its_first_name() {
    let alone = Alone::new(Rules::default()).await;
    let mut image = Image::new(8 * MIB, 0..10);
    alone.cloud.inject(Fault::unauthorized("CompleteSnapshot"));
    let first = spec_for(&image.path, OURS, &lineage("p"), generation(1)).unwrap();
    assert_eq!((first.tags.generation, &first.tags.lineage), (generation(1), &lineage("p")));
    let refused = seed_snapshot(&alone.ec2, &image.path, &first, &|_| ()).await.unwrap_err().to_string();
    assert!(refused.contains("AccessDeniedException") && refused.contains("iam-policy"), "{refused}");

    let wrong = spec_for(&image.path, OURS, &lineage("q"), generation(2)).unwrap_err().to_string();
    assert!(wrong.contains("of an interrupted run for trusted project p on x86_64 with the classic store of engine 28"), "{wrong}");
    let again = spec_for(&image.path, OURS, &lineage("p"), generation(3)).unwrap();
    assert_eq!(again.tags.generation, generation(1), "an interrupted run keeps its generation");
    let old = seed_snapshot(&alone.ec2, &image.path, &again, &|_| ()).await.unwrap();
    assert_eq!(alone.cloud.calls("PutSnapshotBlock").len(), 10, "what was sent is not sent again");
    assert_eq!(alone.ec2.find_snapshot(&old).await.unwrap().unwrap().tags, first.tags);

    for index in [4, 5, 12] {
        image.fill(index, 99);
    }
    let spec = spec_for(&image.path, OURS, &lineage("p"), generation(4)).unwrap();
    let new = seed_snapshot(&alone.ec2, &image.path, &spec, &|_| ()).await.unwrap();
    alone.cloud.of_one_volume(&[&old, &new]);
    let changes = alone.ec2.compare(&old, &new).await.unwrap();
    let ranges = vec![Range { from: 4 * BLOCK, bytes: 2 * BLOCK }, Range { from: 12 * BLOCK, bytes: BLOCK }];
    assert_eq!(changes, Changes { volume_bytes: 1 << 30, block_bytes: BLOCK, changed_bytes: 3 * BLOCK, ranges });
}

/// The binary, from the settings in force to the last line.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_seed_and_compare() {
    let alone = Alone::new(Rules::default()).await;
    // The key's secret half is in the environment: a seed of settings holds none.
    let mut settings = alone.settings.clone();
    settings.ec2.authentication = Authentication::InstanceProfile;
    let mut image = Image::new(8 * MIB, 0..10);
    let seeded = |image: &Image| {
        let path = image.path.to_str().unwrap();
        let wanted = ["cache", "seed", "--image", path, "--project", "p", "--store", "classic", "--engine-major", "28"];
        let said = run(&wanted, &settings, with_key);
        assert!(said.status.success(), "{said:?}");
        let (out, told) = text(&said);
        (out.trim().rsplit(' ').next().unwrap().to_owned(), told)
    };
    let (old, told) = seeded(&image);
    assert!(told.contains("100 %: 10 of 10 blocks looked at, 5 MiB sent\n"), "{told}");
    assert!(told.contains("takes it in by its tags"), "no database is configured here: {told}");
    let found = alone.ec2.find_snapshot(&old).await.unwrap().unwrap();
    assert_eq!(found.tags.lineage, lineage("p"));
    image.fill(7, 99);
    let (new, _) = seeded(&image);
    alone.cloud.of_one_volume(&[&old, &new]);
    let said = run(&["cache", "diff", &old, &new], &settings, with_key);
    let expected = "bytes 3670016 to 4194303: 512 KiB\n512 KiB of 1 GiB changed: 1 blocks of 512 KiB in 1 places.\n";
    assert_eq!(text(&said).0, expected, "{said:?}");
    let said = run(&["cache", "diff", &old, &new, "--json"], &settings, with_key);
    let json: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&json["changed_bytes"], &json["ranges"][0]["from"]), (&BLOCK.into(), &(7 * BLOCK).into()));
    let unknown = Uuid::from_u128(5).to_string();
    let said = run(&["cache", "diff", &old, &unknown], &settings, with_key);
    assert!(!said.status.success() && text(&said).1.contains("cannot be looked up without the service's database"), "{said:?}");
}
