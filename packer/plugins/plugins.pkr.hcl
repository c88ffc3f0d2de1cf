# For packer 1.7 and newer, once: packer init packer/plugins. Packer 1.6 has these built in and must not read this file; no template
# folder includes it.
packer {
  required_plugins {
    amazon = {
      version = ">= 1.2.0"
      source  = "github.com/hashicorp/amazon"
    }
    qemu = {
      version = ">= 1.0.9"
      source  = "github.com/hashicorp/qemu"
    }
  }
}
