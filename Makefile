# gatewayctl: build, run, test. `make help` lists the targets.

GO      ?= go
DATA    ?= ./data
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STAMP   ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
LDFLAGS  = -s -w -X main.version=$(VERSION) -X main.buildUnix=$(STAMP)
BUILD    = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'

# What the tests need from Debian: the programs that they test against, and a C compiler for the race detector.
TEST_PROGRAMS = mosquitto:mosquitto mosquitto_pub:mosquitto-clients avahi-daemon:avahi-daemon avahi-browse:avahi-utils \
                dbus-daemon:dbus ip:iproute2 openssl:openssl curl:curl nsenter:util-linux systemd-analyze:systemd gcc:gcc git:git

.PHONY: help build run test test-deps check fuzz crash bench dist man clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

build: ## build bin/gatewayctl, a static binary
	@mkdir -p bin
	$(BUILD) -o bin/gatewayctl ./cmd/gatewayctl

run: build ## build and start the gateway, data in ./data (DATA=DIR for another place)
	./bin/gatewayctl serve --data $(DATA)

test: test-deps ## install what the tests need, then run all of them under the race detector
	$(GO) vet ./...
	$(GO) test -race -timeout 14m ./...

test-deps: ## install the Debian packages that the tests need, when they are missing
	@PATH="$$PATH:/usr/sbin:/sbin"; missing=""; \
	for pair in $(TEST_PROGRAMS); do \
	  command -v "$${pair%%:*}" >/dev/null 2>&1 || missing="$$missing $${pair#*:}"; \
	done; \
	[ -e /usr/include/stdio.h ] || missing="$$missing libc6-dev"; \
	if [ -n "$$missing" ]; then \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  echo "make test: installing Debian packages that the tests need:$$missing"; \
	  $$sudo apt-get update -qq && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing >/dev/null || exit 1; \
	fi

check: ## vet, staticcheck, and everything that `make test` runs
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -race -timeout 14m ./...

fuzz: ## fuzz every parser of foreign bytes for FUZZTIME each (default 1m)
	@set -e; for f in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do \
	  for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$f); do \
	    echo "fuzz $$name in $$(dirname $$f)"; \
	    $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(or $(FUZZTIME),1m) -fuzzminimizetime 20x $$(dirname $$f); \
	  done; done

crash: ## thousands of simulated power cuts over the log and the store
	GATEWAYCTL_CRASH_POINTS=$(or $(POINTS),5000) $(GO) test -timeout 60m -run 'Crash|PowerCut' -count 1 ./store/...

bench: build test-deps ## compare with mosquitto, plain mochi and the bare relay in one run; writes docs/benchmarks.md
	./bin/gatewayctl bench compare --out docs/benchmarks.md

dist: ## static binaries for linux/amd64, arm64, armv7, armv6 in dist/
	@mkdir -p dist
	GOOS=linux GOARCH=amd64 $(BUILD) -o dist/gatewayctl-linux-amd64 ./cmd/gatewayctl
	GOOS=linux GOARCH=arm64 $(BUILD) -o dist/gatewayctl-linux-arm64 ./cmd/gatewayctl
	GOOS=linux GOARCH=arm GOARM=7 $(BUILD) -o dist/gatewayctl-linux-armv7 ./cmd/gatewayctl
	GOOS=linux GOARCH=arm GOARM=6 $(BUILD) -o dist/gatewayctl-linux-armv6 ./cmd/gatewayctl
	@cd dist && sha256sum gatewayctl-linux-* > SHA256SUMS && ls -l

man: build ## man pages in dist/man
	./bin/gatewayctl man --out dist/man

clean: ## remove what was built
	rm -rf bin dist
