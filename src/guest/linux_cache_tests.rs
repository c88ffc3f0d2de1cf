//! What the cache's script does to a folder, and how a machine's words about it are read. The rest of it is seen in real VMs.

use super::*;
use crate::domain::lineage::Layer;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

const SHELLS: [&str; 2] = ["dash", "bash"];
const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const C: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

/// Runs functions of the script on `cache`; those that would touch the machine only say that they were called.
fn run(shell: &str, cache: &Path, store: &str, calls: &str) -> String {
    let mut quoted = String::new();
    bundle::quote(&mut quoted, cache.to_str().unwrap());
    let text = format!(
        "seconds=60\nstore='{store}'\n{SCRIPT}\ncache={quoted}\ndata=$cache/docker\nwithin 50\n\
         refuse() {{ printf 'refused %s\\n' \"$*\"; exit 0; }}\n{calls}\n"
    );
    let mut child =
        Command::new(shell).arg("-s").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A classic store with one layer, as an engine leaves it.
fn store_of(cache: &Path) {
    let images = cache.join("docker/image/overlay2");
    write(&images.join(format!("layerdb/sha256/{A}/cache-id")), C);
    write(&images.join(format!("layerdb/sha256/{A}/size")), "1234");
    write(&images.join("repositories.json"), "{\"Repositories\":{}}");
    write(&cache.join(format!("docker/overlay2/{C}/diff/file")), "a");
    write(&cache.join("docker/buildkit/cache.db"), "b");
    std::fs::create_dir_all(cache.join("docker/overlay2/l")).unwrap();
    symlink(format!("../{C}/diff"), cache.join("docker/overlay2/l/KEPT")).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn all_but_images_and_build_cache_is_removed_and_no_link_is_followed() {
    for shell in SHELLS {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = folder.path().join("it's a $(disk)");
        let data = cache.join("docker");
        store_of(&cache);
        write(&outside.path().join("precious"), "p");
        write(&data.join(format!("containers/{A}/config.v2.json")), "{}");
        write(&data.join(format!("containers/{B}/config.v2.json")), "{}");
        write(&data.join("volumes/named/_data/file"), "");
        write(&data.join(format!("plugins/{A}/config.json")), "");
        write(&data.join("swarm/docker-state.json"), "{}");
        write(&data.join("image overlay2/a space"), "");
        write(&data.join("..odd"), "");
        write(&data.join("-rf"), "");
        write(&data.join("buildkit/executor/left/config.json"), "");
        write(&data.join(format!("image/overlay2/layerdb/mounts/{B}/mount-id")), B);
        write(&data.join(format!("image/overlay2/layerdb/mounts/{B}/init-id")), &format!("{B}-init"));
        write(&data.join(format!("image/overlay2/layerdb/mounts/{A}/mount-id")), "../../outside");
        write(&data.join(format!("overlay2/{B}/diff/file")), "");
        write(&data.join(format!("overlay2/{B}-init/diff/file")), "");
        symlink(format!("../{B}/diff"), data.join("overlay2/l/DANGLES")).unwrap();
        for place in ["network", "containers/link", "volumes/link", ".hidden"] {
            std::fs::create_dir_all(data.join(place).parent().unwrap()).unwrap();
            symlink(outside.path(), data.join(place)).unwrap();
        }
        let said = run(shell, &cache, "classic", "clear && tell_removed && whole && printf '%s' \"$said$warm\"");
        assert_eq!(
            said, "note Removed 3 containers, 2 volumes, 1 plugin and the swarm state that an earlier job left.\n1",
            "{shell}"
        );
        assert_eq!(names(&data), ["buildkit", "image", "overlay2"]);
        assert_eq!(names(&data.join("overlay2")), [C, "l"]);
        assert_eq!(names(&data.join("overlay2/l")), ["KEPT"]);
        assert_eq!(names(&data.join("buildkit")), ["cache.db", "executor"]);
        assert_eq!(names(&data.join("image/overlay2/layerdb/mounts")), [""; 0]);
        assert_eq!(names(outside.path()), ["precious"]);
    }
}

#[test]
fn in_containerds_store_its_three_folders_stay() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path();
    let kept = ["io.containerd.content.v1.content", "io.containerd.metadata.v1.bolt", "io.containerd.snapshotter.v1.overlayfs"];
    for name in kept.iter().chain(&["io.containerd.runtime.v2.task", "opt", "tmpmounts"]) {
        write(&cache.join("containerd").join(name).join("file"), "");
    }
    write(&cache.join(format!("containerd/{}/blobs/sha256/{A}", kept[0])), "{}");
    write(&cache.join(format!("docker/containers/{B}/hostname")), "");
    write(&cache.join("docker/image/file"), "");
    write(&cache.join("docker/overlay2/file"), "");
    let said = run("dash", cache, "containerd", "clear && whole && echo \"$warm$containers$removed\"");
    assert_eq!(said, format!("1 {B}, 1 container\n"));
    assert_eq!(names(&cache.join("containerd")), kept);
    assert_eq!(names(&cache.join("docker")), ["image"]);
}

#[test]
fn a_planted_link_for_a_kept_folder_goes_and_one_inside_it_is_refused() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let data = folder.path().join("docker");
    store_of(folder.path());
    write(&outside.path().join("layerdb/mounts/x/mount-id"), B);
    std::fs::remove_dir_all(data.join("image/overlay2")).unwrap();
    symlink(outside.path(), data.join("image/overlay2")).unwrap();
    assert_eq!(run("dash", folder.path(), "classic", "clear || echo no"), "no\n");
    std::fs::remove_dir_all(data.join("image")).unwrap();
    symlink(outside.path(), data.join("image")).unwrap();
    run("dash", folder.path(), "classic", "clear");
    assert!(!data.join("image").exists() && outside.path().join("layerdb/mounts/x/mount-id").exists());
}

#[test]
fn a_store_with_something_missing_is_damaged() {
    type Break = fn(&Path);
    let broken: [(&str, Break); 6] = [
        ("A layer has no cache-id.", |images| std::fs::remove_file(images.join(format!("layerdb/sha256/{A}/cache-id"))).unwrap()),
        ("A layer has no size.", |images| std::fs::remove_file(images.join(format!("layerdb/sha256/{A}/size"))).unwrap()),
        ("A layer has an unreadable size.", |images| write(&images.join(format!("layerdb/sha256/{A}/size")), "12x")),
        ("A layer has an unreadable cache-id.", |images| {
            write(&images.join(format!("layerdb/sha256/{A}/cache-id")), "../../etc");
        }),
        ("The files of a layer are missing.", |images| {
            std::fs::remove_dir_all(images.join(format!("../../overlay2/{C}/diff"))).unwrap();
        }),
        ("The list of images is missing.", |images| write(&images.join("repositories.json"), "")),
    ];
    for (sentence, breaks) in broken {
        let folder = tempfile::tempdir().unwrap();
        store_of(folder.path());
        breaks(&folder.path().join("docker/image/overlay2"));
        let said = run("dash", folder.path(), "classic", "whole");
        assert_eq!(said, format!("refused damaged {sentence}\n"));
        assert!(
            matches!(mounted(said.as_bytes()), Some(Mounted::Refused { trouble: CacheTrouble::Damaged, detail }) if detail == sentence)
        );
    }
}

#[test]
fn a_file_system_that_needed_more_than_its_journal_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let check = |says: &str, code: u8, content: &str| {
        let stub = format!("content={content}\ndisk=none\ntimeout() {{ printf '%b' '{says}'; return {code}; }}\ncheck");
        run("dash", folder.path(), "classic", &stub)
    };
    assert_eq!(check("c: recovering journal\\nc: clean, 11/1 files, 2/3 blocks\\n", 0, "good"), "");
    assert_eq!(check("c: Clearing orphaned inode 13 (uid=0)\\nc: clean, 1/1 files\\n", 1, "good"), "");
    assert_eq!(
        check("c: contains a file system with errors, check forced.\\nc: 1/2 files\\n", 1, "good"),
        "refused damaged The file system had to be repaired: c: contains a file system with errors, check forced.\n"
    );
    assert_eq!(
        check("\\nc: UNEXPECTED INCONSISTENCY\\n", 4, "good"),
        "refused damaged The file system is damaged: c: UNEXPECTED INCONSISTENCY\n"
    );
    assert_eq!(check("", 124, "good"), "refused damaged The check of the file system did not end within 50 s.\n");
}

#[test]
fn the_least_recently_used_image_is_the_first_to_go() {
    let folder = tempfile::tempdir().unwrap();
    let id = |digits: &str| format!("sha256:{digits}");
    write(
        &folder.path().join(".vm-service-used"),
        &format!("200 {}\n100 {}\nx {}\n50 sha256:gone\n9999999999999999999999 x\n", id(A), id(B), id(C)),
    );
    let ask = format!("ask() {{ echo '[{{\"Id\":\"{}\"}},{{\"Id\":\"{}\"}},{{\"Id\":\"{}\"}}]'; }}\n", id(A), id(B), id(C));
    let said = run("dash", folder.path(), "classic", &format!("{ask}by_use"));
    assert_eq!(said, format!("100 {}\n200 {}\n", id(B), id(A)));
    let used = format!("{ask}used_images={}\nremember\nsed 's/^[0-9]\\{{10\\}} /now /' \"$cache/.vm-service-used\"", id(B));
    let said = run("dash", folder.path(), "classic", &used);
    assert_eq!(said, format!("200 {}\nnow {}\n", id(A), id(B)));
}

#[test]
fn the_words_of_a_mount_are_read_strictly() {
    let ready = |notes: &[&str]| {
        let notes = notes.iter().map(|&note| note.to_owned()).collect();
        Some(Mounted::Ready(CacheReady { warm: true, used_bytes: 5, size_bytes: 9, notes }))
    };
    assert_eq!(mounted(b"ready warm=1 used=5 size=9\n"), ready(&[]));
    assert_eq!(mounted(b"note Removed \x1b[31m1 thing.\nready warm=1 used=5 size=9\n"), ready(&["Removed ?[31m1 thing."]));
    assert_eq!(
        mounted(b"refused wrong_engine The disk\nsays so.\n"),
        Some(Mounted::Refused { trouble: CacheTrouble::WrongEngine, detail: "The disk says so.".to_owned() })
    );
    for unreadable in [
        "",
        "ready",
        "ready warm=2 used=5 size=9",
        "ready warm=1 used=-5 size=9",
        "ready warm=1 used=5 size=99999999999999999999",
        "ready warm=1 used=5 size=9223372036854775808",
        "ready warm=1 used=5 size=9\nready warm=1 used=5 size=9",
        "hello\nready warm=1 used=5 size=9",
        "refused",
        "refused gone Text.",
        "note only",
    ] {
        assert_eq!(mounted(unreadable.as_bytes()), None, "{unreadable}");
    }
    let many = "note x\n".repeat(21) + "ready warm=1 used=5 size=9";
    assert_eq!(mounted(many.as_bytes()), None);
}

#[test]
fn the_words_of_an_unmount_are_read_strictly() {
    let said = format!("unmounted used=7\nnote Pruned.\n=== layers\nsha256:{A} 3 1\nsha256:{B} 4 0\nsha256:x 1 1\n");
    let layer = |digits: &str, bytes| Layer { id: format!("sha256:{digits}"), bytes };
    assert_eq!(
        unmounted(said.as_bytes(), &Used::default()),
        Some(Unmounted {
            used_bytes: 7,
            layers: vec![layer(A, 3), layer(B, 4)],
            used: vec![layer(A, 3)],
            notes: vec!["Pruned.".to_owned()]
        })
    );
    assert_eq!(
        unmounted(b"unmounted used=0\n", &Used::default()),
        Some(Unmounted { used_bytes: 0, layers: vec![], used: vec![], notes: vec![] })
    );
    for unreadable in ["", "unmounted", "unmounted used=x", "unmounted used=1\nhello", "=== layers\nunmounted used=1"] {
        assert_eq!(unmounted(unreadable.as_bytes(), &Used::default()), None, "{unreadable}");
    }
}

#[test]
fn nothing_is_done_before_everything_has_arrived_and_texts_are_only_texts() {
    let until = Instant::now() + Duration::from_secs(63);
    let call = script(&[("serial", "it's $(id)")], until, "mount_cache");
    assert!(
        call.contains("\nserial='it'\\''s $(id)'\n") && call.starts_with("seconds='59'\n") || call.starts_with("seconds='60'\n")
    );
    assert_eq!(call.lines().last(), Some("mount_cache </dev/null"));
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("done");
    let whole = format!("{SCRIPT}mount_cache() {{\n echo >{}\n}}\nmount_cache </dev/null\n", mark.display());
    for cut in (0..whole.trim_end().rfind('\n').unwrap()).step_by(997) {
        let cut = (0..=cut).rev().find(|&at| whole.is_char_boundary(at)).unwrap();
        run_text(&whole[..cut]);
    }
    assert!(!mark.exists());
    run_text(&whole);
    assert!(mark.exists());
}

fn run_text(text: &str) {
    let mut child =
        Command::new("dash").arg("-s").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).ok();
    child.wait().unwrap();
}
