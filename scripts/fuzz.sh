#!/usr/bin/env bash
# Fuzzes the readers of untrusted files, FUZZ_SECONDS in all (60), one target
# after the other; FUZZ_TARGETS names some of them. Needs the stable toolchain
# alone: the compiler's coverage instrumentation is a pass of LLVM, and the
# sanitizers, which need a nightly, would see little in code without `unsafe`.
. "$(dirname "$0")/common.sh"
cd "$ROOT/fuzz"
read -ra targets <<<"${FUZZ_TARGETS:-gguf adapter template folder}"
each=$((${FUZZ_SECONDS:-60} / ${#targets[@]}))
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  coverage+=" -Cllvm-args=-sanitizer-coverage-$option"
done
say "Building the fuzz targets"
# with a target named, build scripts are not instrumented
CARGO_TARGET_DIR=$CARGO_TARGET_DIR/fuzz RUSTFLAGS="--cfg fuzzing $coverage" \
  cargo build --locked --release --target "$host" --bins
bin=$CARGO_TARGET_DIR/fuzz/$host/release
found=$CACHE/fuzz
for target in "${targets[@]}"; do
  say "$target: $each s"
  mkdir -p "$found/$target" "$found/failures/$target"
  # what it finds interesting goes into the cache, the committed corpus only seeds it
  "$bin/$target" -max_total_time="$each" -max_len=65536 -timeout=20 -rss_limit_mb=2048 \
    -malloc_limit_mb=1024 -print_final_stats=1 -verbosity=1 \
    -artifact_prefix="$found/failures/$target/" "$found/$target" "corpus/$target" \
    || fail "$target failed; the input is in $found/failures/$target"
done
say "Nothing failed"
