# What an operator chooses for an AMI. Values of your own go into packer/ec2/NAME.auto.pkrvars.hcl, or -var and -var-file.

variable "region" {
  type        = string
  description = "Where it is built."
  # Whether there is such a region AWS says; packer 1.6 has no regular expressions.
  validation {
    condition     = length(split("-", var.region)) > 2 && can(parseint(element(split("-", var.region), length(split("-", var.region)) - 1), 10))
    error_message = "A region is as in eu-west-1, and no zone."
  }
}

variable "source_cidrs" {
  type        = list(string)
  description = "Who may reach the building machine's port 22 while it is built: addresses of the machine that runs packer."
  validation {
    condition     = length(var.source_cidrs) > 0 && !contains(var.source_cidrs, "0.0.0.0/0") && !contains(var.source_cidrs, "::/0")
    error_message = "Name the network that packer runs in, as in 203.0.113.7/32; everybody is refused."
  }
}

variable "kind" {
  type        = string
  default     = "base"
  description = "base, or gpu: with NVIDIA's driver, CUDA runtime and container toolkit; built and tested on a machine that has a GPU."
  validation {
    condition     = contains(["base", "gpu"], var.kind)
    error_message = "The kind is base or gpu."
  }
}

variable "regions" {
  type        = list(string)
  default     = []
  description = "Further regions that get a copy."
}

variable "ubuntu" {
  type    = string
  default = "24.04"
  validation {
    condition     = contains(["22.04", "24.04"], var.ubuntu)
    error_message = "The release of Ubuntu is 22.04 or 24.04."
  }
}

variable "architecture" {
  type    = string
  default = "amd64"
  validation {
    condition     = contains(["amd64", "arm64"], var.architecture)
    error_message = "The architecture is amd64 or arm64."
  }
}

variable "source_owner" {
  type        = string
  default     = "099720109477"
  description = "Account whose Ubuntu it starts from: Canonical's. A name alone proves nothing."
}

variable "instance_type" {
  type        = string
  default     = ""
  description = "Of the building machine; empty: one that fits kind and architecture."
}

variable "vpc_id" {
  type    = string
  default = ""
}

variable "subnet_id" {
  type        = string
  default     = ""
  description = "Empty: one of the default VPC."
}

variable "disk_gib" {
  type        = number
  default     = 0
  description = "Root volume of the image; 0: 16 for base, 40 for gpu."
}

# Who may use it. An image that everybody may use cannot be made here.

variable "ami_users" {
  type        = list(string)
  default     = []
  description = "Accounts that may use the image; needs kms_key_id, a key that they may use."
}

variable "ami_groups" {
  type        = list(string)
  default     = []
  description = "Groups that may use the image."
  validation {
    condition     = !contains([for group in var.ami_groups : lower(trimspace(group))], "all")
    error_message = "The group all would make the image public."
  }
}

variable "kms_key_id" {
  type        = string
  default     = ""
  description = "Key of the image's snapshots; empty: the account's own for EBS. They are always encrypted."
}

variable "region_kms_key_ids" {
  type        = map(string)
  default     = {}
  description = "The same for the copies: region to key."
}

variable "name" {
  type        = string
  default     = "vm-service"
  description = "First word of the image's name."
}

variable "installation" {
  type        = string
  default     = ""
  description = "UUID of the installation that it is for; becomes a tag of the image and its snapshots."
}

variable "tags" {
  type        = map(string)
  default     = {}
  description = "Further tags of all that the build makes."
}

# What is in it.

variable "store" {
  type        = string
  default     = "classic"
  description = "Where Docker keeps its layers."
  validation {
    condition     = contains(["classic", "containerd"], var.store)
    error_message = "The store is classic or containerd."
  }
}

variable "tools" {
  type        = string
  default     = ""
  description = "File with packages, one a line; empty: ami/tools-full.list."
}

variable "script" {
  type        = string
  default     = ""
  description = "Your own steps, run as root, last; empty: packer/own-steps."
}

variable "nvidia_driver" {
  type        = string
  default     = "580"
  description = "A branch, or one version such as 580.95.05."
}

variable "nvidia_modules" {
  type        = string
  default     = "open"
  description = "Kernel modules: open (Turing and newer) or proprietary."
}

variable "cuda" {
  type        = string
  default     = "13-0"
  description = "CUDA runtime as in the names of NVIDIA's packages; or none."
}

variable "nvidia_toolkit" {
  type    = string
  default = "1.17.8-1"
}

variable "gpus" {
  type        = number
  default     = 1
  description = "How many GPUs the building machine has."
}

# How it is built.

variable "manifest" {
  type        = string
  default     = "packer-manifest.json"
  description = "File that vm-service image register reads; each build adds itself."
}

variable "longest_minutes" {
  type        = number
  default     = 120
  description = "The building machine ends itself after that, whatever becomes of packer."
}

variable "ec2_endpoint" {
  type        = string
  default     = ""
  description = "Of an EC2 that is not Amazon's."
}

variable "ssh_username" {
  type    = string
  default = "ubuntu"
}

variable "ssh_host" {
  type        = string
  default     = ""
  description = "With ssh_port and ssh_private_key_file: when the way to the machine leads through a tunnel of yours."
}

variable "ssh_port" {
  type    = number
  default = 22
}

variable "ssh_private_key_file" {
  type    = string
  default = ""
}

variable "ssh_keypair_name" {
  type    = string
  default = ""
}

variable "ssh_timeout" {
  type    = string
  default = "10m"
}

variable "poll_seconds" {
  type        = number
  default     = 10
  description = "Between two looks at what AWS is still making; given up after an hour."
}
