# On a fresh machine, with python3, git and make:   make listen    make test
#
# Python packages go into .venv, and uv into .uv where it is missing; only PortAudio, and for the tests PulseAudio and
# Chromium, come from the system's package manager. ARGS is passed on:  make listen ARGS="--save talk.srt"

SHELL := /bin/sh
PYTHON := .venv/bin/python
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
# where Python may not write its bytecode, as in many containers, every start would take 5 s more
UV_SYNC := $(UV) sync --frozen --inexact --compile-bytecode
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
WARM := @echo "Compiling decoder and network, once" && $(PYTHON) -m streamasr.warm
# glibc gives large blocks back to the system and asks for them anew at every step, which costs training a quarter
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
ARGS ?=

.PHONY: help listen doctor setup check lint types imports test train lm rnn-lm soak recording wheel clean

help:
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile

listen: .venv/listen.stamp ## live captions from the microphone, or of a recording where there is none
	@$(PYTHON) -m streamasr.system portaudio
	@.venv/bin/streamasr listen $(ARGS)

doctor: .venv/listen.stamp ## what works here, and what to do about the rest
	@.venv/bin/streamasr doctor --fix $(ARGS)

setup: .venv/develop.stamp ## everything that developing needs
	@$(PYTHON) -m streamasr.system portaudio pulseaudio chromium || true

check: setup lint types imports test ## everything that CI checks

lint: .venv/develop.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/develop.stamp
	.venv/bin/mypy

imports: .venv/develop.stamp
	.venv/bin/lint-imports

test: setup ## the tests
	.venv/bin/pytest $(ARGS)

train: .venv/develop.stamp ## train a model by the recipe
	$(KEEP_MEMORY) $(PYTHON) -m train.run $(if $(CONFIG),--config $(CONFIG)) $(if $(DATA),--data $(DATA)) $(if $(SETS),--sets $(SETS)) $(ARGS)

lm: .venv/develop.stamp ## estimate the language model
	$(PYTHON) -m train.lm $(ARGS)

rnn-lm: .venv/develop.stamp ## train the recurrent language model beside it
	$(PYTHON) -m train.rnn_lm $(ARGS)

soak: .venv/develop.stamp ## an hour of stream against the clips alone; ARGS="--hours 10", SETS="MANIFEST ..."
	$(PYTHON) -m benchmarks.soak $(or $(SETS),../shared/corpus/dev/read ../shared/corpus/dev/crowd) $(ARGS)

recording: .venv/develop.stamp ## make the bundled recording again
	$(PYTHON) -m train.recording $(ARGS)

wheel: $(UV) ## build the wheel, models included, into dist
	$(UV) build --wheel

clean: ## remove all that was installed or built here
	rm -rf .venv .uv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/listen.stamp: pyproject.toml uv.lock | $(UV)
	$(UV_SYNC) --no-default-groups
	$(WARM)
	@touch $@

.venv/develop.stamp: pyproject.toml uv.lock | $(UV)
	$(UV_SYNC)
	$(WARM)
	@touch $@ .venv/listen.stamp

# pip may be absent, or forbidden to touch the system's Python; then a private environment, or uv's own installer, does.
.uv/bin/uv:
	@echo "Fetching uv into .uv"
	@python3 -m pip install --quiet --disable-pip-version-check --target .uv uv 2>/dev/null \
	|| { rm -rf .uv; python3 -m venv .uv && .uv/bin/pip install --quiet uv; } 2>/dev/null >&2 \
	|| { rm -rf .uv; mkdir .uv; curl -LsSf https://astral.sh/uv/install.sh -o .uv/install.sh \
	     && UV_INSTALL_DIR=.uv/bin UV_NO_MODIFY_PATH=1 sh .uv/install.sh; } 2>/dev/null \
	|| { rm -rf .uv; $(AS_ROOT) apt-get update -q && $(AS_ROOT) apt-get install -y -q python3-venv \
	     && python3 -m venv .uv && .uv/bin/pip install --quiet uv; } \
	|| { rm -rf .uv; echo "uv could not be fetched. Please install it: https://docs.astral.sh/uv"; exit 1; }
	@test -x $@
