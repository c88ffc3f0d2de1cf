//! The other store: an engine that keeps its layers with containerd.

use super::remote::{build, context};
use super::{at_rest, start_on, volumes};
use std::path::Path;
use std::process::Command;

const IMAGES: &str = "/var/tmp/c-trixie-images";

#[test]
#[ignore = "builds an image of another release, then two VMs; make proof runs it"]
fn both_stores() {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("ami/build-onhost");
    let built = Command::new(tool).args(["--output", IMAGES, "--suite", "trixie", "--store", "containerd"]).status().unwrap();
    if !built.success() {
        println!("SKIPPED: the image with the containerd store cannot be built here ({built})");
        return;
    }
    let service = start_on("cache-stores", 2, Some(&Path::new(IMAGES).join("current")));
    let folder = tempfile::tempdir().unwrap();
    context(folder.path());
    let cached = ["--docker-layer-caching"];
    let (first, found) = build(&service, &cached, folder.path());
    assert_eq!(found, 0);
    at_rest(&service);
    let (second, found) = build(&service, &cached, folder.path());
    assert_eq!(found, 4, "every layer is found");
    at_rest(&service);
    let all = volumes(&service);
    assert!(all.len() == 1 && all[0]["store"] == "containerd", "{all:?}");
    println!("figure containerd_build_on_new_volume {first:.2} s");
    println!("figure containerd_build_with_cache {second:.2} s");
}
