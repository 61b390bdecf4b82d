#!/usr/bin/env bash
# Tests on an NVIDIA GPU what is otherwise tested on candle's CPU device.
#   test-cuda.sh             builds the tests and runs them here
#   test-cuda.sh build DIR   builds them and the programs into DIR; needs neither a GPU
#                            nor its driver (CUDA_COMPUTE_CAP=90 says for which GPU)
#   test-cuda.sh run DIR     runs what was built, on another machine from the same path,
#                            with CUDA's libraries (LD_LIBRARY_PATH) and the model
#                            (FLYWHEEL_TEST_MODEL)
. "$(dirname "$0")/common.sh"
cd "$ROOT"

# Linking needs libraries with the right names and functions, running the real ones.
# So that the machine that links needs no driver and none of CUDA's 700 MB, it gets
# libraries whose functions do nothing, of what candle's binding to CUDA declares.
stubs() {
  local manifest sources stubs=$1
  [ -n "${CUDA_HOME:-}" ] || CUDA_HOME=$(dirname "$(dirname "$(realpath "$(command -v nvcc)")")")
  manifest=$(cargo metadata --locked --format-version 1 --features trainer/cuda | python3 -c '
import json, sys
packages = {p["id"]: p for p in json.load(sys.stdin)["packages"]}
candle = max((p for p in packages.values() if p["name"] == "candle-core"), key=lambda p: p["version"])
wanted = next(d["req"] for d in candle["dependencies"] if d["name"] == "cudarc").strip("^").split(".")[:2]
print(next(p["manifest_path"] for p in packages.values()
           if p["name"] == "cudarc" and p["version"].split(".")[:2] == wanted))')
  sources=$(dirname "$manifest")/src
  mkdir -p "$stubs"
  local library
  for library in driver:cuda:1 cublas:cublas:13 cublaslt:cublasLt:13 curand:curand:10 \
    nvrtc:nvrtc:13; do
    local module=${library%%:*} name=${library#*:}
    local version=${name#*:}
    name=${name%:*}
    grep -oE '^pub unsafe fn [A-Za-z0-9_]+' "$sources/$module/sys/mod.rs" | awk '{print "void " $4 "(void) {}"}' \
      | sort -u > "$stubs/$name.c"
    cc -shared -fno-builtin -w -Wl,-soname,"lib$name.so.$version" -o "$stubs/lib$name.so" "$stubs/$name.c"
  done
  # this one comes with nvcc
  local runtime=$CUDA_HOME/lib64/libcudart.so.13
  [ ! -e "$runtime" ] || ln -sf "$runtime" "$stubs/libcudart.so"
}

build() {
  local out=$1
  . scripts/cuda.sh
  export CARGO_TARGET_DIR=${TEST_CUDA_TARGET_DIR:-$CACHE/cuda/programs}
  if ! ldconfig -p | grep -q 'libcuda\.so'; then
    [ -n "${CUDA_COMPUTE_CAP:-}" ] || fail "there is no GPU here: CUDA_COMPUTE_CAP=80, 86, 89, 90 … says for which to build"
    say "No driver here: linking against libraries of the same names"
    stubs "$CARGO_TARGET_DIR/stubs"
    export LIBRARY_PATH=$CARGO_TARGET_DIR/stubs${LIBRARY_PATH:+:$LIBRARY_PATH}
  fi
  say "Building with the kernels (the first time takes half an hour on two cores)"
  local with=(--locked --release -p engine -p gateway -p trainer --features engine/cuda,gateway/cuda,trainer/cuda)
  cargo build "${with[@]}" --bins
  mkdir -p "$out"
  cp "$CARGO_TARGET_DIR"/release/{flywheel,flywheel-trainer} "$out"
  cargo test "${with[@]}" --lib --test native --no-run --message-format=json | python3 -c '
import json, shutil, sys
for line in sys.stdin:
    built = json.loads(line)
    if built.get("executable") and built["profile"]["test"]:
        kind, package = built["target"]["kind"][0], built["target"]["name"]
        if kind == "lib" and package not in ("engine", "trainer"):
            continue
        name = f"{package}-tests" if kind == "lib" else f"engine-{package}-tests"
        shutil.copy(built["executable"], f"{sys.argv[1]}/{name}")' "$out"
  strip --strip-debug "$out"/*
}

run() {
  export FLYWHEEL_TEST_DEVICE=${FLYWHEEL_TEST_DEVICE:-cuda:0}
  say "Serving on $FLYWHEEL_TEST_DEVICE"
  "$1/engine-tests" --nocapture candle::
  "$1/engine-native-tests" --nocapture --include-ignored candle::
  say "Training there"
  "$1/trainer-tests" --nocapture tests::tensors::
  say "All tests passed on $FLYWHEEL_TEST_DEVICE"
}

case ${1:-} in
  build) build "${2:?into which folder?}" ;;
  run) run "${2:?from which folder?}" ;;
  "")
    programs=$(mktemp -d)
    trap 'rm -rf "$programs"' EXIT
    build "$programs"
    run "$programs"
    ;;
  *) fail "it is test-cuda.sh, test-cuda.sh build DIR or test-cuda.sh run DIR" ;;
esac
