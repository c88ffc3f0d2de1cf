# The commands of the repository; each installs what it needs. Read .ci/lib.sh for the folders they use.

.PHONY: demo test up down bench sim ec2-lab proof pictures fmt

demo:  ## everything from nothing: installs, builds, starts the service, runs two real jobs, cleans up
	@.ci/demo

test:  ## the gate: every check and test
	@.ci/test

up:    ## leaves the service running and says where it is
	@.ci/up

down:  ## stops what `make up` left running
	@.ci/down

bench: ## measures; see the report folder
	@.ci/bench

sim:   ## SEEDS=n histories of the simulation proof (SEED=n: just that one); see the report folder
	@.ci/sim

ec2-lab: ## the whole service on EC2 with moto as control plane and real VMs behind its instances; see the report folder
	@.ci/ec2-lab

proof: ## the long runs: image from nothing, VMs, crashes, calls to EC2, the simulation and the faults that it must see
	@.ci/proof

pictures: ## takes the pictures of the README anew, into docs/pictures
	@.ci/pictures

fmt:
	@cargo fmt
