//! The request policy of our provider, held on every call that makes a machine or a disk: idempotent, tagged in the creating call,
//! encrypted, gone with its machine, and without rights of its own.

use super::params::Params;
use base64::Engine as _;
use std::collections::{BTreeMap, BTreeSet};

const MANAGED: (&str, &str) = ("ManagedBy", "vm-service");
const INSTALLATION: &str = "vm-service:installation";

/// Everything in which a call breaks the policy; `profiles` are the instance profiles that the test allows.
pub(super) fn check(action: &str, params: &Params, profiles: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Breaches { action, found: Vec::new() };
    match action {
        "RunInstances" => {
            wrong.token(params);
            wrong.unless(params.get("MinCount") == Some("1"), "MinCount is not 1");
            let mut kinds = vec!["instance", "volume"];
            if params.get("InstanceMarketOptions.MarketType") == Some("spot") {
                kinds.push("spot-instances-request");
            }
            wrong.tags(&params.tags("TagSpecification"), &kinds);
            // A launch template was held to this when it was made.
            if !params.0.keys().any(|name| name.starts_with("LaunchTemplate.")) {
                wrong.machine("", params, profiles);
            }
        }
        "CreateLaunchTemplate" | "CreateLaunchTemplateVersion" => {
            wrong.tags(&params.tags("LaunchTemplateData.TagSpecification"), &["volume"]);
            wrong.machine("LaunchTemplateData.", params, profiles);
        }
        "CreateFleet" => {
            wrong.token(params);
            wrong.unless(params.get("Type") == Some("instant"), "Type is not instant: nobody else may launch for us later");
            wrong.tags(&params.tags("TagSpecification"), &["fleet", "instance"]);
            let data = "LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateSpecificationUserData";
            wrong.user_data(params.get(data));
        }
        "CreateVolume" => {
            wrong.token(params);
            wrong.unless(params.get("Encrypted") == Some("true"), "the volume is not encrypted");
            wrong.tags(&params.tags("TagSpecification"), &["volume"]);
        }
        "StartSnapshot" => {
            wrong.token(params);
            wrong.unless(params.get("Encrypted") == Some("true"), "the snapshot is not encrypted");
            wrong.ours("snapshot", &params.pairs("Tags"));
        }
        "CreateTags" => wrong.found.push("CreateTags: tags belong in the creating call".to_owned()),
        _ => {}
    }
    wrong.found
}

struct Breaches<'a> {
    action: &'a str,
    found: Vec<String>,
}

impl Breaches<'_> {
    fn unless(&mut self, fine: bool, what: &str) {
        if !fine {
            self.found.push(format!("{}: {what}", self.action));
        }
    }

    fn token(&mut self, params: &Params) {
        let fine = params.get("ClientToken").is_some_and(|token| token.is_ascii() && token.len() <= 64);
        self.unless(fine, "no ClientToken of 1 to 64 ASCII characters");
    }

    fn tags(&mut self, tags: &BTreeMap<String, BTreeMap<String, String>>, kinds: &[&str]) {
        for kind in kinds {
            self.ours(kind, tags.get(*kind).unwrap_or(&BTreeMap::new()));
        }
    }

    fn ours(&mut self, kind: &str, tags: &BTreeMap<String, String>) {
        self.unless(tags.get(MANAGED.0).is_some_and(|value| value == MANAGED.1), &format!("{kind}: no tag ManagedBy=vm-service"));
        self.unless(tags.get(INSTALLATION).is_some_and(|id| !id.is_empty()), &format!("{kind}: no tag {INSTALLATION}"));
    }

    /// What a launch or a launch template says of its machine.
    fn machine(&mut self, at: &str, params: &Params, profiles: &BTreeSet<String>) {
        let get = |name: &str| params.get(&format!("{at}{name}"));
        self.unless(get("MetadataOptions.HttpTokens") == Some("required"), "IMDSv2 is not required");
        self.unless(get("MetadataOptions.HttpPutResponseHopLimit") == Some("1"), "the hop limit of IMDS is not 1");
        let ends = get("InstanceInitiatedShutdownBehavior") == Some("terminate");
        self.unless(ends, "a shutdown from inside does not terminate it");
        for disk in params.entries(&format!("{at}BlockDeviceMapping")) {
            if params.0.contains_key(&format!("{disk}.NoDevice")) {
                continue;
            }
            let is = |name: &str| params.get(&format!("{disk}.Ebs.{name}")) == Some("true");
            let device = params.get(&format!("{disk}.DeviceName")).unwrap_or(&disk);
            self.unless(is("Encrypted"), &format!("{device} is not encrypted"));
            self.unless(is("DeleteOnTermination"), &format!("{device} outlives its machine"));
        }
        self.unless(!params.entries(&format!("{at}BlockDeviceMapping")).is_empty(), "no disk is said to be encrypted");
        let profile = get("IamInstanceProfile.Name").or_else(|| get("IamInstanceProfile.Arn"));
        if let Some(name) = profile.filter(|name| !profiles.contains(*name)) {
            self.unless(false, &format!("the instance profile {name} gives it rights"));
        }
        // A fleet brings it along.
        if at.is_empty() {
            self.user_data(get("UserData"));
        }
    }

    fn user_data(&mut self, data: Option<&str>) {
        let decoded = data.map(|data| base64::engine::general_purpose::STANDARD.decode(data));
        self.unless(decoded.is_some_and(|data| data.is_ok_and(|data| !data.is_empty())), "no user data in base64");
    }
}
