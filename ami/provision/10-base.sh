#!/usr/bin/env bash
# Makes the base of every image: the login `circleci`, sshd as early and as strict as can be, cloud-init reduced to
# what our user data uses, a network by DHCP on the first card, an absolute end for every machine, and nothing that
# starts by itself and takes time or sends packets. Idempotent. Debian 12+, Ubuntu 22.04+.
# `10-base.sh --packages` prints the packages it needs, one a line, and does nothing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

# e2fsprogs: the cache disk is checked and made inside the VM.
packages=(systemd-sysv dbus udev kmod mount login passwd netbase e2fsprogs openssh-server sudo cloud-init cloud-guest-utils
    ca-certificates iproute2)
# Its own package since Debian 12 and Ubuntu 24.04, part of systemd before.
if has_candidate systemd-resolved; then packages+=(systemd-resolved); fi
if [[ ${1:-} == --packages ]]; then
    printf '%s\n' "${packages[@]}"
    exit 0
fi
install_packages "${packages[@]}"

getent group docker >/dev/null || groupadd --system docker
# 1001 where nobody has it.
getent group circleci >/dev/null || groupadd --gid 1001 circleci 2>/dev/null || groupadd circleci
uid=(--uid 1001)
if getent passwd 1001 >/dev/null; then uid=(); fi
id circleci >/dev/null 2>&1 || useradd "${uid[@]}" --gid circleci --create-home --shell /bin/bash circleci
usermod --append --groups docker circleci
install -d -o circleci -g circleci -m 0700 /home/circleci/.ssh
[[ -e /home/circleci/.ssh/authorized_keys ]] ||
    install -o circleci -g circleci -m 0600 /dev/null /home/circleci/.ssh/authorized_keys

install_tree base

# Debian 12 and Ubuntu read sshd_config.d first, and the first value wins, so the drop-in needs no edit of the main file.
grep -q '^Include /etc/ssh/sshd_config.d/' /etc/ssh/sshd_config
# A host key that is here now stays, or a packer session that runs this would be the last: cloud-init (ssh_deletekeys)
# replaces it at the first boot of each VM.

# Known machines share one name; sudo then never asks a name server for it.
echo vm >/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 vm\n::1 localhost ip6-localhost ip6-loopback\n' >/etc/hosts
ln -sfn ../run/systemd/resolve/resolv.conf /etc/resolv.conf

# cloud-init always runs (no search for a data source by a shell script at each boot); its units step aside by
# themselves where vm-service-seed has already done what the user data says.
install -d /etc/systemd/system-generators /etc/systemd/system/multi-user.target.wants
ln -sfn /dev/null /etc/systemd/system-generators/cloud-init-generator
ln -sfn /lib/systemd/system/cloud-init.target /etc/systemd/system/multi-user.target.wants/cloud-init.target
for unit in cloud-init-local cloud-init cloud-init-network cloud-init-main cloud-config cloud-final; do
    install -d "/etc/systemd/system/$unit.service.d"
    printf '[Unit]\nAfter=vm-service-seed.service\nConditionPathExists=!/run/vm-service/seeded\n' \
        >"/etc/systemd/system/$unit.service.d/vm-service.conf"
done

# Automatic updates and upkeep: a VM lives for one job. No clock service: the clock is the host's (RTC), and in a
# closed network no packet may leave; an AMI that wants chrony enables it after this script.
off apt-daily.service apt-daily.timer apt-daily-upgrade.service apt-daily-upgrade.timer unattended-upgrades.service \
    man-db.service man-db.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer logrotate.timer \
    motd-news.timer motd-news.service update-notifier-download.timer update-notifier-motd.timer fwupd-refresh.timer \
    ua-timer.timer ubuntu-advantage.service apport.service apport-autoreport.path whoopsie.path snapd.seeded.service \
    snapd.service snapd.socket snapd.snap-repair.timer apt-news.service esm-cache.service update-notifier-download.service \
    systemd-timesyncd.service chrony.service networking.service systemd-networkd-wait-online.service \
    cloud-init-hotplugd.socket cloud-init-hotplugd.service ssh.socket getty@.service autovt@.service systemd-pstore.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-random-seed.service remote-fs.target \
    systemd-firstboot.service ldconfig.service systemd-journal-catalog-update.service systemd-update-done.service \
    systemd-hwdb-update.service systemd-sysusers.service multipathd.service multipathd.socket

systemctl enable --quiet ssh.service systemd-networkd.service systemd-resolved.service \
    vm-service-seed.service vm-service-end.service vm-service-runcmd.service
systemctl set-default --quiet multi-user.target
