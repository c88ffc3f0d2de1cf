# An AMI for vm-service: Canonical's Ubuntu, made by the scripts of ami/ what a VM of the service is, tested after a reboot, cleaned of its
# identity, encrypted, tagged, never public. What fails leaves nothing: packer removes its machine, key pair and security group, no image
# is registered, and a machine that packer could not remove ends itself (longest_minutes) and is found by the tag vm-service:image-build.

locals {
  root  = "${path.root}/.."
  ami   = "${path.root}/../../ami"
  stamp = formatdate("YYYYMMDDhhmmss", timestamp())
  name  = "${var.name}-${var.kind}-ubuntu-${var.ubuntu}-${var.architecture}-${local.stamp}"

  codename  = var.ubuntu == "22.04" ? "jammy" : "noble"
  base_type = var.architecture == "arm64" ? "m7g.large" : "m7i.large"
  # With one GPU that the open kernel modules know.
  gpu_type = var.architecture == "arm64" ? "g5g.2xlarge" : "g4dn.xlarge"
  own_type = var.kind == "gpu" ? local.gpu_type : local.base_type
  own_gib  = var.kind == "gpu" ? 40 : 16
  tools    = var.tools == "" ? "${path.root}/../../ami/tools-full.list" : var.tools
  script   = var.script == "" ? "${path.root}/../own-steps" : var.script
  gpu_test = var.kind == "gpu" ? "--gpu ${var.gpus}" : ""

  # Not the tag vm-service:installation on what builds: the service ends machines that carry it and that it has not launched.
  ours    = merge(var.tags, { ManagedBy = "vm-service", "vm-service:image-build" = local.stamp })
  for_one = merge(local.ours, { "vm-service:installation" = var.installation })
  marks   = merge(var.installation == "" ? local.ours : local.for_one, { Name = local.name, "vm-service:image-kind" = var.kind })

  # Filled in by ../complete-manifest with what the machine said of itself.
  words = ["distribution", "release", "architecture", "engine_store", "engine_version", "kernel_version", "inputs"]
  told  = { for word in concat(local.words, ["nvidia_driver", "cuda", "nvidia_toolkit"]) : word => "@${local.stamp} ${word}@" }
}

source "amazon-ebs" "ubuntu" {
  region              = var.region
  custom_endpoint_ec2 = var.ec2_endpoint
  source_ami_filter {
    owners      = [var.source_owner]
    most_recent = true
    filters = {
      name                = "ubuntu/images/hvm-ssd*/ubuntu-${local.codename}-${var.ubuntu}-${var.architecture}-server-*"
      architecture        = var.architecture == "arm64" ? "arm64" : "x86_64"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  instance_type                         = var.instance_type == "" ? local.own_type : var.instance_type
  vpc_id                                = var.vpc_id
  subnet_id                             = var.subnet_id
  temporary_security_group_source_cidrs = var.source_cidrs
  shutdown_behavior                     = "terminate"
  user_data                             = "#!/bin/sh\nshutdown -P +${var.longest_minutes}\n"
  launch_block_device_mappings {
    device_name           = "/dev/sda1"
    volume_size           = var.disk_gib == 0 ? local.own_gib : var.disk_gib
    volume_type           = "gp3"
    iops                  = 3000
    throughput            = 250
    delete_on_termination = true
  }
  aws_polling {
    delay_seconds = var.poll_seconds
    max_attempts  = ceil(3600 / var.poll_seconds)
  }

  ami_name           = local.name
  ami_description    = "vm-service ${var.kind}, Ubuntu ${var.ubuntu}, ${var.architecture}"
  ami_regions        = var.regions
  ami_users          = var.ami_users
  ami_groups         = var.ami_groups
  encrypt_boot       = true
  kms_key_id         = var.kms_key_id
  region_kms_key_ids = var.region_kms_key_ids
  ena_support        = true

  tags            = merge(local.marks, { "vm-service:from" = "{{ .SourceAMI }}" })
  snapshot_tags   = local.marks
  run_tags        = merge(local.ours, { Name = "building ${local.name}" })
  run_volume_tags = merge(local.ours, { Name = "building ${local.name}" })

  communicator         = "ssh"
  ssh_username         = var.ssh_username
  ssh_host             = var.ssh_host
  ssh_port             = var.ssh_port
  ssh_private_key_file = var.ssh_private_key_file
  ssh_keypair_name     = var.ssh_keypair_name
  ssh_timeout          = var.ssh_timeout
}

build {
  sources = ["source.amazon-ebs.ubuntu"]

  provisioner "shell" {
    inline = ["mkdir -p /tmp/vm-service"]
  }
  provisioner "file" {
    source      = local.ami
    destination = "/tmp/vm-service"
  }
  provisioner "file" {
    source      = local.tools
    destination = "/tmp/vm-service/tools.list"
  }
  provisioner "file" {
    source      = local.script
    destination = "/tmp/vm-service/own-steps"
  }
  provisioner "shell" {
    execute_command = "sudo env {{ .Vars }} bash -e {{ .Path }}"
    environment_vars = [
      "VM_SERVICE_STORE=${var.store}",
      "VM_SERVICE_TOOLS=/tmp/vm-service/tools.list",
      "VM_SERVICE_NVIDIA_DRIVER=${var.nvidia_driver}",
      "VM_SERVICE_NVIDIA_MODULES=${var.nvidia_modules}",
      "VM_SERVICE_CUDA=${var.cuda}",
      "VM_SERVICE_NVIDIA_TOOLKIT=${var.nvidia_toolkit}",
    ]
    # The test runs after the reboot, which empties /tmp.
    inline = [
      "/tmp/vm-service/ami/bake ${var.kind} /tmp/vm-service/own-steps",
      "rm -rf /var/tmp/vm-service && mv /tmp/vm-service /var/tmp/vm-service",
    ]
  }
  provisioner "shell" {
    inline            = ["sudo systemctl reboot"]
    expect_disconnect = true
  }
  provisioner "shell" {
    pause_before        = "20s"
    start_retry_timeout = "10m"
    execute_command     = "sudo bash -e {{ .Path }}"
    inline = [
      "tools=$(sed 's/#.*//' /var/tmp/vm-service/tools.list)",
      "/var/tmp/vm-service/ami/image-test --builder ${var.ssh_username} --store ${var.store} ${local.gpu_test} --tools \"$tools\"",
    ]
  }
  provisioner "file" {
    direction   = "download"
    source      = "/etc/vm-service/image"
    destination = "${var.manifest}.facts"
  }
  provisioner "shell" {
    execute_command = "sudo bash -e {{ .Path }}"
    inline          = ["/var/tmp/vm-service/ami/clean"]
  }

  post-processors {
    post-processor "manifest" {
      output      = var.manifest
      custom_data = merge({ kind = var.kind, format = "1" }, local.told)
    }
    post-processor "shell-local" {
      inline = ["'${local.root}/complete-manifest' '${var.manifest}' '${local.stamp}'"]
    }
  }
}
