use super::*;
use serde_json::json;

fn manifest() -> Value {
    json!({
        "builds": [
            { "name": "old", "builder_type": "amazon-ebs", "packer_run_uuid": "1", "artifact_id": "eu-west-1:ami-00000000", "custom_data": null },
            { "name": "gpu", "builder_type": "amazon-ebs", "packer_run_uuid": "2", "build_time": 1, "files": null,
              "artifact_id": "eu-west-1:ami-0123456789abcdef0,us-east-1:ami-0123456789abcdef1",
              "custom_data": { "kind": "gpu", "architecture": "x86_64", "engine_version": "28.5.1", "store": "classic",
                               "distribution": "ubuntu-24.04", "hash": "abc", "more": "unread" } },
            { "name": "here", "builder_type": "qemu", "packer_run_uuid": "2", "artifact_id": "VM", "custom_data": { "architecture": "x86_64" } },
        ],
        "last_run_uuid": "2",
    })
}

fn asked(manifest: Value) -> RegisterRequest {
    RegisterRequest { manifest: Some(manifest), ..RegisterRequest::default() }
}

#[test]
fn the_amis_of_the_last_run_are_registered_one_for_each_region() {
    let images = wanted(&asked(manifest())).unwrap();
    let facts = ImageFacts {
        distribution: Some("ubuntu-24.04".to_owned()),
        engine_version: Some("28.5.1".to_owned()),
        store: Some(Store::Classic),
        hash: Some("abc".to_owned()),
        ..ImageFacts::default()
    };
    let image = |region: &str, id: &str| WantedImage {
        source: ImageSource::Ami { region: region.to_owned(), id: id.to_owned() },
        name: "gpu".to_owned(),
        kind: ImageKind::Gpu,
        architecture: Architecture::X86_64,
        facts: facts.clone(),
    };
    assert_eq!(images, [image("eu-west-1", "ami-0123456789abcdef0"), image("us-east-1", "ami-0123456789abcdef1")]);
    let one = RegisterRequest { regions: Some(vec!["us-east-1".to_owned()]), name: Some("mine".to_owned()), ..asked(manifest()) };
    let images = wanted(&one).unwrap();
    assert_eq!((images.len(), images[0].name.as_str(), images[0].source.provider_id()), (1, "mine", "ami-0123456789abcdef1"));
    let none = RegisterRequest { regions: Some(vec!["eu-west-9".to_owned()]), ..asked(manifest()) };
    assert_eq!(wanted(&none).unwrap_err(), "The manifest has no AMI in eu-west-9: it has them in eu-west-1, us-east-1.");
}

/// As the templates in `packer/` have it written.
#[test]
fn the_words_of_our_own_templates_are_known() {
    let mut own = manifest();
    own["builds"][1]["custom_data"] = json!({
        "format": "1", "kind": "gpu", "distribution": "ubuntu", "release": "24.04", "architecture": "aarch64", "engine_store": "containerd",
        "engine_version": "28.2.2", "kernel_version": "6.8", "inputs": "0123456789abcdef", "nvidia_driver": "580.95.05", "cuda": "13-0",
        "nvidia_toolkit": "",
    });
    let image = wanted(&asked(own.clone())).unwrap().remove(0);
    let facts = ImageFacts {
        distribution: Some("ubuntu-24.04".to_owned()),
        engine_version: Some("28.2.2".to_owned()),
        store: Some(Store::Containerd),
        hash: Some("0123456789abcdef".to_owned()),
        nvidia_driver: Some("580.95.05".to_owned()),
        cuda: Some("13-0".to_owned()),
        ..ImageFacts::default()
    };
    assert_eq!((image.architecture, image.facts), (Architecture::Arm64, facts));
    own["builds"][1]["custom_data"]["engine_version"] = "@7f engine_version@".into();
    assert!(wanted(&asked(own.clone())).unwrap_err().contains("did not come to its end"));
    own["builds"][1]["custom_data"] = json!({ "format": "2" });
    assert!(wanted(&asked(own)).unwrap_err().contains("its format is \"2\""));
}

#[test]
fn a_mistake_anywhere_registers_nothing_and_is_named() {
    let mistakes: [(&str, Value, &str); 7] = [
        ("/builds/1/artifact_id", json!("eu-west-1:ami-012345678"), "its artifact is \"eu-west-1:ami-012345678\""),
        ("/builds/1/artifact_id", json!("ami-0123456789abcdef0"), "and not such as"),
        ("/builds/1/artifact_id", json!("eu-west-1:ami-01234567,eu-west-1:ami-01234567"), "names one AMI twice"),
        ("/builds/1/custom_data/architecture", json!("riscv64"), "its architecture is \"riscv64\", and not x86_64 or arm64"),
        ("/builds/1/custom_data", json!({}), "does not say its architecture"),
        ("/builds/1/custom_data/kind", json!("large"), "its kind is \"large\""),
        ("/builds/1/builder_type", json!("null"), "made no AMI"),
    ];
    for (at, value, because) in mistakes {
        let mut bad = manifest();
        *bad.pointer_mut(at).unwrap() = value;
        let said = wanted(&asked(bad)).unwrap_err();
        assert!(said.contains(because) && said.ends_with('.'), "{at}: {said}");
    }
    for nonsense in [json!([]), json!({}), json!({ "builds": [{}] })] {
        assert!(wanted(&asked(nonsense.clone())).unwrap_err().starts_with("This is no manifest of packer's"), "{nonsense}");
    }
    assert!(wanted(&RegisterRequest::default()).unwrap_err().contains("either"));
}

#[test]
fn a_folder_is_named_by_its_hash_and_by_nothing_that_leads_elsewhere() {
    let folder = json!({ "hash": "0a1b", "architecture": "amd64", "engine_version": "28", "store": "classic", "kernel_append": "root=/dev/vda",
                         "disk_virtual_bytes": 1 });
    let of = |folder: &Value| RegisterRequest { folder: Some(folder.clone()), ..RegisterRequest::default() };
    let images = wanted(&of(&folder)).unwrap();
    assert_eq!(images[0].source, ImageSource::Folder { hash: "0a1b".to_owned(), host: None });
    assert_eq!((images[0].architecture, images[0].facts.hash.as_deref()), (Architecture::X86_64, Some("0a1b")));
    for hash in ["", "..", ".trash-1", "a/b", "a b"] {
        let mut bad = folder.clone();
        bad["hash"] = hash.into();
        assert!(wanted(&of(&bad)).unwrap_err().contains("\"hash\""), "{hash}");
    }
}
