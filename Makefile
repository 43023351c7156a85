# Everything a person or CI does here. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The programs that `make build` made, which are all of one build.
export MACHINIST_BIN_DIR := target/debug
TESTBED := target/debug/testbed
# Where `make deploy` installs; and whose rights `make infra-role` prints, if given.
NAMESPACE ?= machinist-system
# More flags for Helm, like --values my-values.yaml.
HELM_ARGS ?=
# What `make image` makes, on which distroless image, by which engine.
IMAGE ?= machinist:0.1.0
BASE ?=
ENGINE ?= $(shell command -v podman || command -v buildah || command -v docker)
# `real`: the demo's VM is a Linux with a real kubelet, under emulation (root on Debian, x86_64).
GUEST ?= simulated
# Seconds of fuzzing in `make fuzz`, and what is fuzzed: admission, values, csr, watched or answers.
FUZZ_SECONDS ?= 60
FUZZ_TARGET ?= admission
# What a person sees of the testbed, and nothing else.
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
	$(TESTBED) up

.PHONY: demo
demo: demo-programs $(if $(filter real,$(GUEST)),guest-image) ## The same, then a Machine becomes a Node and a bad one is refused
	$(TESTBED) demo --guest $(GUEST)

.PHONY: down
down: ## End what `up` and `demo` started
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
infra-role: ## Print what Machinist may do on an infra cluster, for the VMs of NAMESPACE there (machinist-infra)
	@sed 's/machinist-infra/$(if $(filter file,$(origin NAMESPACE)),machinist-infra,$(NAMESPACE))/g' examples/infra-rbac.yaml

##@ Work on it

.PHONY: build
build: ## Build all programs, for debugging
	cargo build --workspace --bins

.PHONY: crds
crds: ## Write the chart's CRDs anew from the Rust types
	cargo run --package machinist-shared --example crds

.PHONY: kubevirt-crds
# The flags are those of the testbed's build of this program: Go compiles KubeVirt once for both.
kubevirt-crds: export CGO_ENABLED := 0
kubevirt-crds: ## Generate the CRDs of KubeVirt that the testbed installs from KubeVirt's Go module
	file=tests/testbed/src/kubevirt-crds.json; partial="$$(mktemp)"; trap 'rm -f "$$partial"' EXIT; \
	go -C tests/tools/kubevirt run -gcflags=all=-dwarf=false . crds > "$$partial"; \
	cp "$$partial" "$$file"

.PHONY: fields
fields: ## Write docs/kubevirt-fields.md anew from the table of fields
	cargo run --package e2e --example fields

.PHONY: flags
flags: ## Write docs/flags.md anew from the flags of both servers
	cargo run --package machinist-controller --example controller-flags
	cargo run --package machinist-webhook --example webhook-flags

.PHONY: lint
lint: ## Formatting, clippy, licences and sources of dependencies, docs against code, alerts
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	hack/install-tools.sh
	hack/deny.sh
	hack/check-docs.sh
	hack/check-guides.sh
	hack/check-circles.py
	hack/check-alerts.sh

.PHONY: test
test: ## Every test of a change, on real control planes, and where the time went
	hack/install-tools.sh
	hack/test.sh

.PHONY: nightly
nightly: ## What takes longer: fuzzing, fleets, outages, two real guests, repetitions under load; goes on where it was
	hack/nightly.sh

.PHONY: nightly-%
nightly-%: ## One part of it, like nightly-fleet
	hack/nightly.sh $*

.PHONY: test-guest
test-guest: build ## A Machine becomes a Linux VM with a real kubelet, under emulation
	hack/test-guest.sh

.PHONY: test-guides
test-guides: build ## Run the commands of the guides, and the examples, on the test bed
	hack/install-tools.sh
	hack/test-guides.py

.PHONY: guest-image
guest-image: ## Build what real guests boot from, and their QEMU, into target/guest
	hack/install-tools.sh guest
	hack/guest-image.sh

.PHONY: fuzz
fuzz: ## Fuzz FUZZ_TARGET for FUZZ_SECONDS
	hack/fuzz.sh $(FUZZ_SECONDS) $(FUZZ_TARGET)

.PHONY: requests
requests: build ## Print every API request of one Machine's life and of its admission, held against its budget
	cargo test --quiet --locked --package e2e --test cases machine::a_machine_becomes -- --nocapture
	cargo test --quiet --locked --package e2e --test cases asked::warm -- --nocapture

.PHONY: outage
outage: build ## 200 Machines on two infra clusters, one of them cut off for a minute: what the other's take with and without
	OUTAGE_MACHINES=100 OUTAGE_SECONDS=60 cargo test --quiet --locked --package e2e --test infra_outage cut_off -- --nocapture

.PHONY: fleet
fleet: ## A pool from 0 to 100, 500 and 1,000 Machines and back: times beside a floor, requests by kind, CPU and memory
	cargo build --release --locked --workspace --bins
	MACHINIST_BIN_DIR=target/release FLEET_SIZES=100,500,1000 cargo test --workspace --locked --test fleet -- --nocapture

.PHONY: drains
drains: build ## 100 Machines deleted at once, without and with a budget that lets one pod go at a time: times, requests by name
	DRAIN_MACHINES=100 cargo test --workspace --locked --test drain_many -- --nocapture

.PHONY: many
many: ## A controller beside 10,000 Machines: its start, memory, what it costs idle, and how soon it tells of an event
	cargo build --release --locked --workspace --bins
	MACHINIST_BIN_DIR=target/release MANY_MACHINES=10000 cargo test --workspace --locked --test many -- --nocapture

.PHONY: bench
bench: ## Admission throughput, latency and memory beside a floor
	cargo build --release --locked --package machinist-webhook --package bench
	target/release/bench

##@ Documents

.PHONY: book
book: ## Build the documents as a book with a search, into target/book, and check its links; builds mdBook the first time
	hack/book.sh

.PHONY: check-guides
check-guides: ## Hold the guides against chart, CRDs, flags, metrics and links
	hack/check-guides.sh
