//! The fields in the order of the page: preallocation first, then the guide's figures 10 and 11, then what the guide does not have.

use super::rows::{CLASSES, POOLS, PROJECTS, SCHEDULES};
use super::{Control, Field, Group};

const fn field(path: &'static str, name: &'static str, control: Control, unit: &'static str, help: &'static str) -> Field {
    Field { path, name, unit, help, control }
}

const PROVIDERS: &[(&str, &str)] = &[("none", "None"), ("ec2", "AWS EC2"), ("on_host", "On-Host")];
const NETWORKS: &[(&str, &str)] = &[
    ("open", "Open: the outside world, but no address of the host and no other VM"),
    ("closed", "Closed: nothing; only the forwarded ports lead in"),
];
const DISKS: &[(&str, &str)] = &[("gp3", "gp3"), ("gp2", "gp2"), ("st1", "st1")];

pub(super) const GROUPS: &[Group] = &[
    Group {
        id: "preallocation",
        title: "VM Preallocation",
        intro: "Number of VMs to preallocate and have waiting to execute jobs. Set to 0 to have only on-demand VM provisioning.",
        fields: &[
            field(
                "preallocated.remote_docker",
                "Remote Docker",
                Control::Number,
                "VMs",
                "VMs of class medium kept waiting for remote Docker, in addition to those that jobs have.",
            ),
            field(
                "preallocated.machine",
                "Machine Executor",
                Control::Number,
                "VMs",
                "VMs of class medium kept waiting for machine jobs, in addition to those that jobs have.",
            ),
            field("preallocated.pools", "Other resource classes", Control::Rows(&POOLS), "", "VMs of other classes kept waiting."),
            field(
                "preallocated.schedules",
                "Schedules",
                Control::Rows(&SCHEDULES),
                "",
                "From each time that a schedule names, its pool has its number, until another schedule of the same pool says otherwise.",
            ),
            field(
                "preallocated.time_zone",
                "Time zone",
                Control::Text,
                "",
                "Of the schedules and of the daily cycle, such as UTC or Europe/Paris.",
            ),
            field(
                "preallocated.cycle",
                "Daily cycle",
                Control::Text,
                "",
                "When waiting VMs are replaced by fresh ones: a cron pattern that names a time each day.",
            ),
            field(
                "preallocated.cycle_at_a_time",
                "Replaced at a time",
                Control::Number,
                "VMs",
                "How many waiting VMs are replaced at a time, 1 to 100.",
            ),
        ],
    },
    Group {
        id: "provider",
        title: "VM Provider",
        intro: "Where the VMs of remote Docker and of the machine executor come from.",
        fields: &[field(
            "provider",
            "VM Provider",
            Control::Choice(PROVIDERS),
            "",
            "None: tasks wait. A provider of before keeps its VMs in care until they end.",
        )],
    },
    Group {
        id: "ec2",
        title: "AWS EC2",
        intro: "Used while the VM provider is AWS EC2.",
        fields: &[
            field("ec2.region", "AWS Region", Control::OptionalText, "", "Such as eu-west-1. Required."),
            field(
                "ec2.subnets",
                "EC2 Subnet ID",
                Control::Lines,
                "",
                "Subnets for VM creation, in the region above, one a line, the preferred first; each lies in one zone, and more zones have more capacity. Required.",
            ),
            field(
                "ec2.security_group",
                "EC2 Security Group ID",
                Control::OptionalText,
                "",
                "Assigned to all VMs, in the region above; it lets this service in on the SSH port and on 2376. Required.",
            ),
            field(
                "ec2.images",
                "Custom VM AMI",
                Control::Pairs,
                "",
                "Used for machine executor and remote Docker VMs instead of the default, one region=ami a line.",
            ),
            field("ec2.instance_type", "AWS Instance Type", Control::Text, "", "Of VMs whose resource class names none. Required."),
            field(
                "ec2.authentication",
                "AWS Authentication",
                Control::SignIn,
                "",
                "As the machine that this service runs on, or with an access key. The secret half is sealed when it is saved, and never shown again.",
            ),
            field(
                "ec2.instance_profile",
                "Instance profile of the VMs",
                Control::OptionalText,
                "",
                "Name of the profile that VMs get; empty: jobs have no rights in AWS.",
            ),
            field(
                "ec2.public_ip",
                "Use Instance Public IP",
                Control::Toggle,
                "",
                "By default, private IP of VM is used for communication.",
            ),
            field("ec2.ssh_port", "SSH port of the VMs", Control::Number, "", "Where the SSH server of the images listens."),
            field(
                "ec2.volume_type",
                "Type of cache volumes",
                Control::Choice(DISKS),
                "",
                "gp3 has the same speed at every size, gp2 more the larger it is; st1 is magnetic, and has 125 GiB at least.",
            ),
            field(
                "ec2.endpoint",
                "AWS endpoint",
                Control::OptionalText,
                "",
                "Another address of the EC2 API than Amazon's, a URL.",
            ),
        ],
    },
    Group {
        id: "on-host",
        title: "On-Host",
        intro: "Used while the VM provider is On-Host.",
        fields: &[
            field("on_host.network", "Network of the VMs", Control::Choice(NETWORKS), "", "What jobs can reach."),
            field(
                "on_host.addresses",
                "Bind addresses of the VMs",
                Control::Text,
                "",
                "A network of addresses of this host, one for each VM. Loopback's by default: only this host reaches its VMs. For others: a network that is routed to this host, which answers on all of it (ip route add local 10.9.0.0/24 dev lo).",
            ),
            field(
                "on_host.snapshots",
                "Start from snapshots",
                Control::Toggle,
                "",
                "A VM goes on from a snapshot of one that has booted, made beside the first VM of its class; else each VM boots.",
            ),
        ],
    },
    Group {
        id: "advanced",
        title: "Advanced Settings",
        intro: "Proxies inside the VMs, and how long things may take.",
        fields: &[
            field(
                "guest.http_proxy",
                "HTTP Proxy",
                Control::OptionalText,
                "",
                "For http:// inside the VMs (environment, apt, Docker), a URL; empty: direct.",
            ),
            field(
                "guest.https_proxy",
                "HTTPS Proxy",
                Control::OptionalText,
                "",
                "For https:// inside the VMs, a URL; empty: direct.",
            ),
            field("guest.no_proxy", "No Proxy", Control::OptionalText, "", "Hosts that are reached directly, separated by commas."),
            field(
                "guest.root_certificates",
                "Root certificates",
                Control::Certificates,
                "",
                "Trusted inside the VMs beside their own, PEM, one behind the other.",
            ),
            field(
                "timeouts.ssh_connect_ms",
                "Timeout for waiting for ssh to connect to VM",
                Control::Number,
                "ms",
                "1000 to 3600000.",
            ),
            field("timeouts.vm_start_ms", "Timeout for a new VM to start", Control::Number, "ms", "1000 to 3600000."),
            field(
                "timeouts.task_hours",
                "Timeout for long running tasks",
                Control::Number,
                "hours",
                "The longest that a job may hold its VM, 1 to 168.",
            ),
            field(
                "timeouts.vm_idle_hours",
                "Idle maximum of a VM",
                Control::Number,
                "hours",
                "The longest that a VM may wait for a job, 1 to 168.",
            ),
            field(
                "cache.inactive_days",
                "Inactivity period before clearing Docker cache storage volumes",
                Control::Number,
                "days",
                "1 to 3650.",
            ),
            field("cache.volume_gib", "Size of a Docker cache storage volume", Control::Number, "GiB", "Of a new one, 1 to 16384."),
            field(
                "cache.wait_seconds",
                "Longest wait for a cache",
                Control::Number,
                "s",
                "A job that has its VM goes on without its cache after this, 5 to 900.",
            ),
        ],
    },
    Group {
        id: "limits",
        title: "Limits",
        intro: "How much there may be at a time. Empty: what the provider carries (EC2: 100 VMs, 50 in flight, 200 volumes; On-Host: from cores and memory).",
        fields: &[
            field("limits.vms", "VMs", Control::OptionalNumber, "VMs", "That are not terminated."),
            field("limits.in_flight", "VMs in flight", Control::OptionalNumber, "VMs", "Asked for and not ready yet."),
            field("limits.volumes", "Cache volumes", Control::OptionalNumber, "volumes", "Of all projects."),
            field(
                "limits.gpus",
                "GPUs",
                Control::OptionalNumber,
                "GPUs",
                "Of VMs that are not terminated; empty: no limit of their own.",
            ),
            field(
                "limits.vms_per_project",
                "VMs of one project",
                Control::OptionalNumber,
                "VMs",
                "At work for one project; empty: no limit of its own.",
            ),
        ],
    },
    Group {
        id: "classes",
        title: "Resource classes",
        intro: "What a task asks for by name. The class medium must be there.",
        fields: &[field(
            "resource_classes",
            "Resource classes",
            Control::Rows(&CLASSES),
            "",
            "A name has 1 to 100 letters, digits, '-', '_' or '.'.",
        )],
    },
    Group {
        id: "projects",
        title: "Projects",
        intro: "Projects that differ from the others in the queue.",
        fields: &[field("projects", "Projects", Control::Rows(&PROJECTS), "", "All others have weight 1 and priority 0.")],
    },
    Group {
        id: "operation",
        title: "Operation",
        intro: "Brakes, and what is kept.",
        fields: &[
            field("pause_launches", "Pause launches", Control::Toggle, "", "No VM is launched; tasks that find none free wait."),
            field("refuse_new_tasks", "Refuse new tasks", Control::Toggle, "", "New tasks are answered with status 503."),
            field(
                "statsd",
                "StatsD Host",
                Control::OptionalText,
                "",
                "Metrics go there as DogStatsD over UDP: a host, or host:port (8125 when no port is named); empty: nowhere.",
            ),
            field("history_days", "History", Control::Number, "days", "Ended tasks and VMs stay readable so long, 1 to 3650."),
            field(
                "images.keep_days",
                "Retired images",
                Control::Number,
                "days",
                "Kept so long, to go back to, 1 to 3650; then they are deleted unless something needs them.",
            ),
        ],
    },
];
