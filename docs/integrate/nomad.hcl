# A parameterised Nomad batch job: each dispatch runs one command in a VM of its own, and ends with the command's exit code.
#
#   nomad job run nomad.hcl
#   nomad job dispatch -meta project=acme/app -meta class=large ci-job script.sh
#
# Nomad's client needs the vm-service binary and nothing else: VMs are elsewhere. When Nomad stops the job it sends SIGINT; the VM is given
# back before the process ends.
job "ci-job" {
  type = "batch"

  parameterized {
    payload       = "required"
    meta_required = ["project"]
    meta_optional = ["class"]
  }

  meta {
    class = "medium"
  }

  group "job" {
    # A job that failed has failed: whoever dispatched it decides about another try.
    restart {
      attempts = 0
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "vm" {
      driver       = "exec"
      kill_timeout = "30s"

      dispatch_payload {
        file = "script.sh"
      }

      # The dispatcher's token, kept by Nomad: nomad var put nomad/jobs/ci-job token=…
      template {
        data        = "VM_SERVICE_TOKEN={{ with nomadVar \"nomad/jobs/ci-job\" }}{{ .token }}{{ end }}"
        destination = "secrets/token.env"
        env         = true
        # A new token is for later dispatches: by default Nomad would begin the running ones again.
        change_mode = "noop"
      }

      env {
        VM_SERVICE_URL = "https://vm-service.example:3001"
      }

      config {
        command = "/bin/sh"
        # The script goes in on standard input, so that nothing of it is on a command line.
        args = [
          "-c",
          "exec vm-service run --executor machine --project \"$NOMAD_META_project\" --class \"$NOMAD_META_class\" -- bash -s <\"$NOMAD_TASK_DIR/script.sh\"",
        ]
      }

      # What runs here only waits.
      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
