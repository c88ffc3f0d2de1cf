//! The columns of settings that repeat: pools, schedules, classes, projects.

use super::{Control, Field, Rows};
use crate::domain::resource_class::{DEFAULT_CLASS, default_classes};
use crate::domain::settings::ProjectSettings;
use serde_json::{Value, json};

const EXECUTORS: &[(&str, &str)] = &[("machine", "Machine Executor"), ("remote_docker", "Remote Docker")];
const MARKETS: &[(&str, &str)] = &[("on_demand", "On demand"), ("spot", "Spot"), ("spot_then_on_demand", "Spot, else on demand")];
const ARCHITECTURES: &[(&str, &str)] = &[("x86_64", "Intel and AMD (x86_64)"), ("arm64", "ARM (arm64)")];

const fn column(path: &'static str, name: &'static str, control: Control, unit: &'static str, help: &'static str) -> Field {
    Field { path, name, unit, help, control }
}

const EXECUTOR: Field = column("executor", "Executor", Control::Choice(EXECUTORS), "", "What the VMs are for.");
const CLASS: Field = column("resource_class", "Resource class", Control::Text, "", "Name of the class.");
const COUNT: Field = column("count", "VMs", Control::Number, "VMs", "How many are kept waiting.");

pub(super) const POOLS: Rows = Rows { one: "pool", key: None, columns: &[EXECUTOR, CLASS, COUNT], fresh: || fresh_pool(json!({})) };

pub(super) const SCHEDULES: Rows = Rows {
    one: "schedule",
    key: None,
    columns: &[
        EXECUTOR,
        CLASS,
        column(
            "cron",
            "From (cron)",
            Control::Text,
            "",
            "Five fields: minute, hour, day of the month, month, weekday. \"0 8 * * 1-5\" is eight o'clock on working days.",
        ),
        COUNT,
    ],
    fresh: || fresh_pool(json!({ "cron": "0 8 * * 1-5" })),
};

fn fresh_pool(mut more: Value) -> Value {
    more["executor"] = json!("machine");
    more["resource_class"] = json!(DEFAULT_CLASS);
    more["count"] = json!(0);
    more
}

pub(super) const CLASSES: Rows = Rows {
    one: "class",
    key: Some(column("key", "Name", Control::Text, "", "What a task asks for; medium is what a task gets that names none.")),
    columns: &[
        column("vcpus", "Virtual CPUs", Control::Number, "", "1 to 128. On EC2 the instance type decides."),
        column("memory_mib", "Memory", Control::Number, "MiB", "512 to 1048576. On EC2 the instance type decides."),
        column("disk_gib", "Root disk", Control::Number, "GiB", "10 to 16384, and never smaller than the image."),
        column(
            "limit",
            "Limit",
            Control::OptionalNumber,
            "VMs",
            "At most so many VMs of the class at a time; empty: only the limit in all.",
        ),
        column(
            "gpus",
            "GPUs",
            Control::OptionalNumber,
            "",
            "GPUs of each VM, up to 16; its image is then one of the kind gpu. Empty: none.",
        ),
        column(
            "price_per_hour",
            "Price",
            Control::Price,
            "an hour",
            "What one VM costs an hour, in your currency; empty: unknown. The check of a change sums up what waiting VMs cost a month.",
        ),
        column(
            "ec2.instance_types",
            "AWS Instance Types",
            Control::Lines,
            "",
            "One a line, the preferred first: the next is taken where one has no capacity. Empty: the type of the provider's settings.",
        ),
        column(
            "ec2.images",
            "Custom VM AMIs",
            Control::Pairs,
            "",
            "Images of its own, one region=ami a line. Empty: those of the provider's settings.",
        ),
        column(
            "ec2.market",
            "Market",
            Control::Choice(MARKETS),
            "",
            "How its VMs are paid for; spot VMs can be taken away at two minutes' notice.",
        ),
        column("ec2.architecture", "Architecture", Control::Choice(ARCHITECTURES), "", "Of its instance types."),
        column(
            "reserve.machine",
            "Reserve, Machine Executor",
            Control::Number,
            "VMs",
            "Stopped VMs that are started when none is free; they cost their disks only. EC2.",
        ),
        column("reserve.remote_docker", "Reserve, Remote Docker", Control::Number, "VMs", "The same for remote Docker."),
        column(
            "reserve.hibernate",
            "Hibernate",
            Control::Toggle,
            "",
            "VMs of the reserve keep their memory on their disk. Image, type and disk must be fit for it.",
        ),
    ],
    fresh: || serde_json::to_value(default_classes().remove(DEFAULT_CLASS)).unwrap_or_default(),
};

pub(super) const PROJECTS: Rows = Rows {
    one: "project",
    key: Some(column("key", "Project", Control::Text, "", "The id that the dispatcher gives, such as acme/app.")),
    columns: &[
        column(
            "weight",
            "Weight",
            Control::Number,
            "",
            "Its share when there is not enough for all: one of weight 2 has twice as many VMs at work as one of weight 1. 1 to 1000.",
        ),
        column("priority", "Priority", Control::Signed, "", "Added to the priority of each of its tasks, -100 to 100."),
    ],
    fresh: || serde_json::to_value(ProjectSettings::default()).unwrap_or_default(),
};
