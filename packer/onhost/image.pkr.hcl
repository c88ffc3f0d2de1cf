# An on-host image with the operator's list of tools and own steps, from one that ami/build-onhost or this has made. Called by ./build,
# which makes the seed and the keys, and gives the result its place only when a VM has booted from it and kept its promises.

variable "image" {
  type        = string
  description = "Folder of the image to start from: disk.qcow2, vmlinuz, initrd, manifest.json."
}

variable "output" {
  type        = string
  description = "Folder that is made, for the disk; OUTPUT.facts and OUTPUT.console beside it."
}

variable "seed" {
  type        = string
  description = "Folder with the user data of the VM that builds."
}

variable "key" {
  type        = string
  description = "File with the private key that the user data lets in."
}

variable "script" {
  type        = string
  description = "The operator's own steps, run as root."
}

variable "tools" {
  type        = string
  description = "File with packages, one a line."
}

variable "accelerator" {
  type        = string
  default     = "tcg"
  description = "What makes the processors: kvm where a VM boots with it, else tcg."
  validation {
    condition     = contains(["kvm", "tcg"], var.accelerator)
    error_message = "The accelerator is kvm or tcg."
  }
}

variable "cpus" {
  type    = number
  default = 2
}

variable "memory" {
  type        = number
  default     = 2048
  description = "MiB."
}

locals {
  ami      = "${path.root}/../../ami"
  manifest = jsondecode(file("${var.image}/manifest.json"))
  # With every feature that the emulation has, as the service does.
  cpu = var.accelerator == "kvm" ? "host" : "max"
}

source "qemu" "onhost" {
  disk_image       = true
  iso_url          = "${var.image}/disk.qcow2"
  iso_checksum     = "none"
  format           = "qcow2"
  disk_size        = "${local.manifest.disk_virtual_bytes}b"
  disk_compression = false
  output_directory = var.output
  vm_name          = "disk.qcow2"

  accelerator  = var.accelerator
  machine_type = "q35"
  cpus         = var.cpus
  memory       = var.memory
  headless     = true
  disable_vnc  = true
  boot_wait    = "1s"
  # The kernel and the initrd of the image, and the places of the devices, are those of the service's own VMs.
  qemuargs = [
    ["-nodefaults"],
    ["-no-user-config"],
    ["-display", "none"],
    ["-cpu", local.cpu],
    ["-kernel", "${var.image}/vmlinuz"],
    ["-initrd", "${var.image}/initrd"],
    ["-append", local.manifest.kernel_append],
    ["-serial", "file:${var.output}.console"],
    ["-drive", "if=none,id=root,file={{ .OutputDir }}/{{ .Name }},format=qcow2,discard=unmap,detect-zeroes=unmap,cache=unsafe"],
    ["-blockdev", "driver=vvfat,node-name=seed,dir=${var.seed},floppy=on,label=CIDATA,read-only=on"],
    ["-device", "virtio-blk-pci,drive=root,addr=0x2"],
    ["-device", "virtio-blk-pci,drive=seed,addr=0x3"],
    ["-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:{{ .SSHHostPort }}-:22"],
    ["-device", "virtio-net-pci,netdev=net,addr=0x4,romfile="],
    ["-object", "rng-random,id=random,filename=/dev/urandom"],
    ["-device", "virtio-rng-pci,rng=random,addr=0x5"],
  ]

  communicator         = "ssh"
  ssh_username         = "circleci"
  ssh_private_key_file = var.key
  ssh_timeout          = "5m"
  shutdown_command     = "sudo systemctl poweroff"
  shutdown_timeout     = "5m"
}

build {
  sources = ["source.qemu.onhost"]

  provisioner "shell" {
    inline = ["mkdir -p /tmp/vm-service"]
  }
  provisioner "file" {
    source      = local.ami
    destination = "/tmp/vm-service"
  }
  provisioner "file" {
    source      = var.tools
    destination = "/tmp/vm-service/tools.list"
  }
  provisioner "file" {
    source      = var.script
    destination = "/tmp/vm-service/own-steps"
  }
  provisioner "shell" {
    execute_command  = "sudo env {{ .Vars }} bash -e {{ .Path }}"
    environment_vars = ["VM_SERVICE_TOOLS=/tmp/vm-service/tools.list"]
    inline           = ["/tmp/vm-service/ami/bake onhost /tmp/vm-service/own-steps"]
  }
  provisioner "shell" {
    execute_command = "sudo bash -e {{ .Path }}"
    inline = [
      "/tmp/vm-service/ami/image-test --store ${local.manifest.store} --tools \"$(sed 's/#.*//' /tmp/vm-service/tools.list)\"",
    ]
  }
  provisioner "file" {
    direction   = "download"
    source      = "/etc/vm-service/image"
    destination = "${var.output}.facts"
  }
  provisioner "shell" {
    execute_command = "sudo bash -e {{ .Path }}"
    inline          = ["/tmp/vm-service/ami/clean", ": >/etc/resolv.conf"]
  }
}
