#!/usr/bin/env bash
# Builds llama.cpp for this CPU from the source that its Python package carries, where
# it was not yet: the library, which the package is pointed at, and the server (some
# ten minutes on two cores, once). Prints the folder: `venv`, and `build/bin`.
. "$(dirname "$0")/common.sh"
VERSION=0.3.36
PACKAGE=llama-cpp-python==$VERSION
peers=$CACHE/peers-$VERSION
venv=$peers/venv
build=$peers/build
if [ ! -f "$peers/built" ]; then
  command -v c++ >/dev/null || fail "a C++ compiler is needed: apt-get install build-essential"
  mkdir -p "$peers"
  say "Installing what the measurement needs into $venv" >&2
  python3 -m venv "$venv" || fail "python3-venv is needed: apt-get install python3-venv"
  pip=("$venv/bin/python" -m pip --disable-pip-version-check)
  "${pip[@]}" install -q cmake==4.4.5 ninja==1.13.2 gguf==0.19.0 safetensors==0.8.0 >&2
  # without its library, which is built below with the server
  CMAKE_ARGS=-DLLAMA_BUILD=OFF "${pip[@]}" install -q --no-binary llama-cpp-python "$PACKAGE" >&2
  "${pip[@]}" download -q --no-deps --no-binary llama-cpp-python -d "$peers" "$PACKAGE" >&2
  say "Building llama.cpp and its server for this CPU (some ten minutes on two cores, once)" >&2
  tar -xzf "$peers/llama_cpp_python-$VERSION.tar.gz" -C "$peers"
  flags=()
  if grep -qsw amx_tile /proc/cpuinfo; then
    # with it this version ends at a `tileloadd` in its tinygemm_kernel_amx (illegal
    # instruction) on the CPU that it was tried on, at any prompt of the default model
    say "Without AMX, with which llama.cpp $VERSION was seen to crash" >&2
    for language in C CXX; do
      flags+=("-DCMAKE_${language}_FLAGS=-mno-amx-tile -mno-amx-int8 -mno-amx-bf16")
    done
  fi
  "$venv/bin/cmake" -G Ninja -S "$peers/llama_cpp_python-$VERSION/vendor/llama.cpp" -B "$build" \
    -DCMAKE_MAKE_PROGRAM="$venv/bin/ninja" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    ${flags[@]+"${flags[@]}"} \
    -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF >"$peers/configure.log" ||
    fail "llama.cpp was not configured: see $peers/configure.log"
  "$venv/bin/cmake" --build "$build" --target llama-server >"$peers/build.log" ||
    fail "llama.cpp was not built: see $peers/build.log"
  touch "$peers/built"
fi
echo "$peers"
