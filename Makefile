# The commands of Flywheel. Each installs what it needs and says what it does.
SHELL := /bin/bash
CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/flywheel
export CARGO_TARGET_DIR ?= $(CACHE)/target
MODEL := $(CACHE)/models/SmolLM2-135M-Instruct.Q4_1.gguf
BIN := $(CARGO_TARGET_DIR)/release

.PHONY: help demo test serve build model deps check-features check-cuda test-cuda test-arm64 check-trl check-exports build-mistralrs test-mistralrs bench bench-serving bench-peers proofs fuzz fuzz-engine fmt

help: ## Lists the commands
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 18

demo: build ## Turns the whole wheel once on the real model (KEEP=1 leaves it running)
	@$(BIN)/flywheel demo --model $(MODEL) $(if $(KEEP),--keep)

serve: build ## Starts the gateway on 127.0.0.1:8080 with the default model
	@$(BIN)/flywheel serve --model $(MODEL) --data $(or $(DATA),$(FLYWHEEL_DATA),data)

build: model ## Builds the binaries in release
	@echo "==> Building (the first time takes some minutes)"
	cargo build --locked --release -p gateway -p trainer

model: ## Fetches the default model into the user's cache folder
	@scripts/deps.sh build
	@scripts/model.sh

deps: ## Installs the system packages for building and testing
	@scripts/deps.sh test

test: deps model ## Runs everything that CI runs
	@scripts/check.sh

check-features: model ## Checks the optional cargo features, and tests those that this machine can run
	@scripts/features.sh

test-arm64: ## Runs the kernels' tests for 64-bit Arm, emulated
	@scripts/test-arm64.sh

check-cuda: ## Compiles the code for NVIDIA GPUs; needs none
	@scripts/check-cuda.sh

test-cuda: model ## Tests on this machine's NVIDIA GPU what serves and trains there
	@scripts/test-cuda.sh

build-mistralrs: model ## Builds flywheel with the engine mistralrs too
	@echo "==> Building (the first time takes a quarter of an hour)"
	cargo build --locked --release -p gateway --features mistralrs

test-mistralrs: deps model ## Runs the tests of the engine mistralrs
	@scripts/test-mistralrs.sh

bench: build ## Measures the engine's speed on this machine
	@$(BIN)/flywheel bench --model $(MODEL)

bench-serving: build ## Measures what streams notice of swaps, loads and long prompts (10 GB of disk meanwhile)
	@$(BIN)/flywheel bench serving --model $(MODEL)

bench-peers: build ## Measures it beside llama.cpp, and training beside TRL (ROUNDS=5 THREADS=2 ONLY=training)
	@scripts/bench-peers.sh

check-trl: deps model ## Holds training on the default model against TRL and PEFT (6 GB of Python packages)
	@scripts/check-trl.sh

check-exports: build ## Holds exports of an adapter against PEFT and llama.cpp (ADAPTER=FOLDER)
	@scripts/check-exports.sh

proofs: build ## Proves that votes make better adapters and bad votes none (ONLY=thumbs SEEDS=20)
	@scripts/proofs.sh

fuzz: ## Fuzzes the readers of untrusted files (FUZZ_SECONDS=60)
	@scripts/fuzz.sh

fuzz-engine: deps model ## Random loads, unloads, cancellations …, each answer against one alone (STEPS=10000)
	FLYWHEEL_FUZZ_STEPS=$(or $(STEPS),10000) cargo test --release --locked --workspace --lib fuzz::

fmt: ## Formats the code
	cargo fmt --all
