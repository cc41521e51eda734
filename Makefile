# `make demo` and `make test` set everything up on a fresh machine, in an environment of their own (.venv).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PHOTOS ?= ../shared/data/images

# One thread a test process: two pools on two cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2

.PHONY: help demo test test-all sanitize lint bench readme clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/  /'

$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/fieldforge/kernels/cpu/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fieldforge needs Python 3.11 or newer; set PYTHON=python3.12, say")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python has no venv module: install it (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)  ## fit a photo and a shape, look at them
	mkdir -p demo
	$(BIN)/fieldforge doctor --speed
	$(BIN)/fieldforge fit image data/images/astronaut.png -o demo/astronaut.field --restart
	$(BIN)/fieldforge info demo/astronaut.field
	$(BIN)/fieldforge render demo/astronaut.field -o demo/eyes_x8.png --scale 8 --crop 176,64,96,72
	$(BIN)/fieldforge view demo/eyes_x8.png
	$(BIN)/fieldforge fit shape data/meshes/spot.ply -o demo/spot.field --preset fast --restart
	$(BIN)/fieldforge render demo/spot.field -o demo/spot.png --view 150,15 --shadows
	$(BIN)/fieldforge view demo/spot.png
	@echo "Look at demo/astronaut.report.png, demo/eyes_x8.png and demo/spot.png"

test: $(READY)  ## the suite, under eight minutes on two cores
	$(PYTEST) -m "not slow"

test-all: $(READY)  ## the suite with the slow tests
	$(PYTEST)

# The kernels again under AddressSanitizer and UndefinedBehaviorSanitizer, in every instruction set of this processor,
# and the pool under ThreadSanitizer. Python itself leaks, so leaks are not looked for. GCC's libraries are preloaded:
# CXX=g++.
CPU := src/fieldforge/kernels/cpu
SANITIZED = PYTHONPATH=$(CURDIR)/tests/kernels/sanitized FIELDFORGE_MODULE=$$(echo $(CURDIR)/build/sanitize/_cpu*.so) \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1

sanitize: $(READY)  ## the native tests under GCC's sanitizers, a minute or two of processor time to run, more to build
	mkdir -p build/sanitize
	g++ -std=c++20 -O1 -g1 -fsanitize=thread -Wall -Wextra -I $(CPU) tests/kernels/pool_stress.cpp $(CPU)/pool.cpp -pthread -o build/sanitize/pool_stress
	build/sanitize/pool_stress
	g++ -std=c++20 -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all -Wall -Wextra -I $(CPU) tests/kernels/pool_stress.cpp $(CPU)/pool.cpp -pthread -o build/sanitize/pool_stress_memory
	build/sanitize/pool_stress_memory && build/sanitize/pool_stress_memory fork
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt cmake nanobind
	$(BIN)/cmake -S . -B build/sanitize -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFIELDFORGE_SANITIZE=address,undefined -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	$(BIN)/cmake --build build/sanitize --parallel 2
	$(SANITIZED) $(BIN)/python -m pytest -p no:cacheprovider -m "not slow" $(wildcard tests/kernels/test_native_*.py)

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)  ## measure against plain PyTorch; rows go to data/bench
	$(BIN)/fieldforge bench encodings
	$(BIN)/fieldforge bench image
	$(BIN)/fieldforge bench presets --data $(PHOTOS)
	$(BIN)/fieldforge bench cpu
	$(BIN)/fieldforge bench shape
	$(BIN)/fieldforge bench clouds
	$(BIN)/fieldforge bench operators
	$(BIN)/fieldforge bench scene

readme: $(READY)  ## the README's tables from data/bench, and its pictures
	$(BIN)/fieldforge bench report
	mkdir -p demo data/pictures
	$(BIN)/fieldforge fit image data/images/astronaut.png -o demo/astronaut.field --restart --report data/pictures/astronaut.report.webp
	$(BIN)/fieldforge render demo/astronaut.field -o data/pictures/eyes.webp --scale 8 --crop 192,80,64,48
	$(BIN)/fieldforge fit shape data/meshes/spot.ply -o demo/spot.field --restart
	$(BIN)/fieldforge render demo/spot.field -o data/pictures/spot.webp --view 150,15 --shadows --size 320x320
	$(BIN)/fieldforge render demo/spot.field -o data/pictures/spot.normals.webp --view 150,15 --normals --size 320x320
	$(BIN)/fieldforge render demo/spot.field -o data/pictures/spot.curvature.webp --view 150,15 --curvature --size 320x320

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache
