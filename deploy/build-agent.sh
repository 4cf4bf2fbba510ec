#!/usr/bin/env bash
# Builds the guest agent as a static binary and leaves it at $1.
set -euo pipefail
cd "$(dirname "$0")/.."

deploy/build-static.sh "${1:-${CARGO_TARGET_DIR:-target}/release/hearth-agent}" hearth-agent --package hearth-guest-agent
