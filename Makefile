# All tasks of developers and CI. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The programs of `make build`, which are all of one build.
export MACHINIST_BIN_DIR := target/debug
TESTBED := target/debug/testbed
# The namespace for `make deploy`; and, if given, for the rights that `make infra-role` prints.
NAMESPACE ?= machinist-system
# Further flags for Helm, like --values my-values.yaml.
HELM_ARGS ?=
# The image that `make image` builds, its distroless base, and the engine.
IMAGE ?= machinist:0.1.0
BASE ?=
ENGINE ?= $(shell command -v podman || command -v buildah || command -v docker)
# `real`: the demo's VM is a Linux with a real kubelet, under emulation (root on Debian, x86_64).
GUEST ?= simulated
# `real`: KubeVirt's and CDI's own controllers and webhooks run, on simulated hosts.
KUBEVIRT ?= simulated
# Seconds and target of `make fuzz`: admission, values, csr, watched or answers.
FUZZ_SECONDS ?= 60
FUZZ_TARGET ?= admission
# The programs of `make up` and `make demo`.
DEMO := --package testbed --package kubevirt-sim --package machinist-controller --package machinist-webhook

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

##@ Try it

.PHONY: demo-programs
demo-programs:
	cargo build --locked --bins $(DEMO)

.PHONY: up
up: demo-programs ## Start two control planes, a simulated KubeVirt and Machinist on this machine
	$(TESTBED) up --kubevirt $(KUBEVIRT)

.PHONY: demo
demo: demo-programs $(if $(filter real,$(GUEST)),guest-image) ## Start the same, bring up a Machine, and see a bad one refused
	$(TESTBED) demo --guest $(GUEST) --kubevirt $(KUBEVIRT)

.PHONY: down
down: ## End everything that `up` and `demo` started
	if [ -x $(TESTBED) ]; then $(TESTBED) down; fi

##@ Use it

.PHONY: deploy
deploy: ## Install into the cluster of the current kubeconfig, with Helm
	helm upgrade --install machinist charts/machinist --namespace $(NAMESPACE) --create-namespace $(HELM_ARGS)

.PHONY: image
image: ## Build the image IMAGE of both servers and the plugin on BASE, a distroless image by digest, with podman, buildah or docker
	@case "$(BASE)" in *@sha256:*) ;; *) \
	  echo "make image BASE=NAME@sha256:DIGEST: a distroless image with glibc and libgcc (cc-debian12), see docs/install.md" >&2; exit 2 ;; esac
	@[ -n "$(ENGINE)" ] || { echo "make image: needs podman, buildah or docker (ENGINE=PATH)" >&2; exit 2; }
	cargo build --release --locked --package machinist-controller --package machinist-webhook --package kubectl-machinist
	hack/check-image.sh
	hack/sbom.sh
	"$(ENGINE)" build --file Containerfile --build-arg BASE="$(BASE)" --tag "$(IMAGE)" .

.PHONY: sbom
sbom: ## Write the programs' bills of materials, CycloneDX, into target/sbom
	hack/sbom.sh

.PHONY: infra-role
infra-role: ## Print the rights of Machinist on an infra cluster, for the VMs of NAMESPACE there (machinist-infra); of the existing USER=…
	@hack/infra-role.py $(if $(filter file,$(origin NAMESPACE)),machinist-infra,$(NAMESPACE)) $(if $(filter command line,$(origin USER)),'$(USER)')

##@ Work on it

.PHONY: build
build: ## Build all programs, for debugging
	cargo build --workspace --bins

.PHONY: crds
crds: ## Regenerate the chart's CRDs from the Rust types
	cargo run --package machinist-shared --example crds

.PHONY: kubevirt-crds
# The same flags as in the testbed's build of this program, so Go compiles KubeVirt once for both.
kubevirt-crds: export CGO_ENABLED := 0
kubevirt-crds: ## Generate the CRDs of KubeVirt that the testbed installs from KubeVirt's Go module
	file=tests/testbed/src/kubevirt-crds.json; partial="$$(mktemp)"; trap 'rm -f "$$partial"' EXIT; \
	go -C tests/tools/kubevirt run -gcflags=all=-dwarf=false . crds > "$$partial"; \
	cp "$$partial" "$$file"

.PHONY: fields
fields: ## Regenerate docs/kubevirt-fields.md from the table of fields
	cargo run --package e2e --example fields

.PHONY: flags
flags: ## Regenerate docs/flags.md from the flags of both servers
	cargo run --package machinist-controller --example controller-flags
	cargo run --package machinist-webhook --example webhook-flags

.PHONY: lint
lint: ## Formatting, clippy, licenses and sources of dependencies, words, documents against the code, alerts
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	hack/install-tools.sh
	hack/deny.sh
	hack/check-docs.sh
	hack/check-guides.sh
	hack/check-circles.py
	hack/check-words.py
	hack/check-alerts.sh

.PHONY: test
test: ## Run every test of a change, on real control planes, and report where the time went
	hack/install-tools.sh
	hack/test.sh

.PHONY: nightly
nightly: ## Run long tests: fuzzing, fleets, outages, guides, two real guests, repetitions under load; continues where it stopped
	hack/nightly.sh

.PHONY: nightly-%
nightly-%: ## Run one part of it, like nightly-fleet
	hack/nightly.sh $*

.PHONY: test-guest
test-guest: build ## Bring up a Machine whose VM is a Linux with a real kubelet, under emulation
	hack/test-guest.sh

.PHONY: test-guides
test-guides: build ## Run the commands of the guides, and the examples, on the test bed
	hack/install-tools.sh
	hack/test-guides.py

.PHONY: guest-image
guest-image: ## Build the image of real guests, and their QEMU, into target/guest
	hack/install-tools.sh guest
	hack/guest-image.sh

.PHONY: fuzz
fuzz: ## Fuzz FUZZ_TARGET for FUZZ_SECONDS
	hack/fuzz.sh $(FUZZ_SECONDS) $(FUZZ_TARGET)

.PHONY: requests
requests: build ## Print every API request of one Machine's life and of its admission, and compare them with the budget
	cargo test --quiet --locked --package e2e --test cases machine::a_machine_becomes -- --nocapture
	cargo test --quiet --locked --package e2e --test cases preflight::infra_requests::a_warm -- --nocapture

.PHONY: outage
outage: build ## Measure 200 Machines on two infra clusters while one is cut off for a minute: the times of the other's
	OUTAGE_MACHINES=100 OUTAGE_SECONDS=60 cargo test --quiet --locked --package e2e --test infra_outage cut_off -- --nocapture

.PHONY: fleet
fleet: ## Measure a pool from 0 to 100, 500 and 1,000 Machines and back: times beside a floor, requests by kind, CPU and memory
	cargo build --release --locked --workspace --bins
	MACHINIST_BIN_DIR=target/release FLEET_SIZES=100,500,1000 cargo test --workspace --locked --test fleet -- --nocapture

.PHONY: drains
drains: build ## Measure the deletion of 100 Machines, without and with a budget of one disruption: times, requests by name
	DRAIN_MACHINES=100 cargo test --workspace --locked --test mass_deletion -- --nocapture

.PHONY: many
many: ## Measure a controller beside 10,000 Machines: start, memory, idle cost, and the time from an event to the status
	cargo build --release --locked --workspace --bins
	MACHINIST_BIN_DIR=target/release LARGE_CLUSTER_MACHINES=10000 cargo test --workspace --locked --test large_cluster -- --nocapture

.PHONY: bench
bench: ## Measure admission: throughput, latency and memory beside a floor
	cargo build --release --locked --package machinist-webhook --package bench
	target/release/bench

##@ Documents

.PHONY: book
book: ## Build the documents as a book with a search, into target/book, and check its links; builds mdBook the first time
	hack/book.sh

.PHONY: check-guides
check-guides: ## Compare the guides with chart, CRDs, flags, metrics and links
	hack/check-guides.sh
