# `make run` shows one job in a real microVM; `make test` is everything that CI runs; `make help` lists the rest.

# Where images and snapshots are kept between runs.
HEARTH_DATA ?= /var/lib/hearth

TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
HEARTH := $(TARGET_DIR)/release/hearth
# The guest agent that `hearth bake` puts into images; it looks for it beside itself unless told.
HEARTH_AGENT ?= $(TARGET_DIR)/release/hearth-agent
export HEARTH_DATA HEARTH_AGENT

CARGO_HOME ?= $(HOME)/.cargo
export PATH := $(PATH):$(CARGO_HOME)/bin:/usr/sbin:/sbin

.PHONY: help deps agent build bake run test test-full test-firecracker lint bench

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

deps: ## install what is missing on this machine (Debian bookworm, as root)
	@deploy/install-deps.sh

agent: deps ## build the guest agent, a static binary
	@deploy/build-agent.sh $(HEARTH_AGENT)

build: deps ## build `hearth`
	cargo build --release --package hearth-worker

bake: agent build ## build the image of the runtime `python` and snapshot it
	$(HEARTH) bake python

run: bake ## run an example job in a real microVM and print its result
	$(HEARTH) run schemas/examples/hello.json

lint: ## formatting, clippy, licences
	@deploy/check.sh fmt clippy deny

test: ## everything that CI runs, real VMs included
	@deploy/check.sh deps fmt clippy deny agent build tests firecracker

test-full: ## as test, with the tests that take long
	@HEARTH_TEST_FULL=1 deploy/check.sh deps fmt clippy deny agent build tests rabbitmq4 firecracker

test-firecracker: deps ## real Firecracker VMs (FIRECRACKER=/path), emulated where KVM boots none
	@tests/rig/test-firecracker.sh

bench: bake ## measure, against floors in the same run
	@deploy/build-static.sh $(TARGET_DIR)/release/guest-echo-static guest-echo --package hearth-bench --no-default-features
	cargo run --release --package hearth-bench -- run
