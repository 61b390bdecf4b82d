#!/usr/bin/env bash
# Runs OpenAI's own clients, for Python and for Node, against a gateway with
# the default model: tests/clients. With the argument `install` it only installs
# them, at these versions, into the user's cache folder.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
OPENAI_NODE=7.57.0
REQUIREMENTS=tests/clients/requirements.txt
python=$CACHE/clients/python-$(sha256sum "$REQUIREMENTS" | cut -c1-12)
node=$CACHE/clients/node-$OPENAI_NODE

# What was installed to its end has a file `ready`.
install_clients() {
  if [ ! -f "$python/ready" ]; then
    say "Installing OpenAI's Python client"
    rm -rf "$python"
    python3 -m venv "$python" || fail "python3-venv is needed: apt-get install python3-venv"
    "$python/bin/pip" install -q --disable-pip-version-check -r "$REQUIREMENTS"
    touch "$python/ready"
  fi
  if [ ! -f "$node/ready" ]; then
    say "Installing OpenAI's Node client"
    rm -rf "$node"
    mkdir -p "$node"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$node" "openai@$OPENAI_NODE" >/dev/null
    touch "$node/ready"
  fi
}

mkdir -p "$CACHE/clients"
install_clients
[ "${1:-run}" = install ] && exit 0

gateway=$CARGO_TARGET_DIR/release/flywheel
trainer=$CARGO_TARGET_DIR/release/flywheel-trainer
[ -x "$gateway" ] && [ -x "$trainer" ] || fail "the programs are not built: run \`make build\`"
work=$(mktemp -d "$CACHE/clients/run.XXXXXX")
pid=
trainer_pid=
trap 'for one in $trainer_pid $pid; do kill "$one" 2>/dev/null || true; done; wait; rm -rf "$work"' EXIT
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
key=sk-a-key-of-the-clients
limited=sk-one-request-a-minute-of
admin=sk-the-admin-key-of-the-clients
cat >"$work/flywheel.toml" <<TOML
[[keys]]
name = "business-system"
key = "$key"
[[keys]]
name = "limited-python"
key = "$limited-python"
requests_per_minute = 1
[[keys]]
name = "limited-node"
key = "$limited-node"
requests_per_minute = 1
TOML
# nothing of the shell's own settings
env -u FLYWHEEL_STORE -u FLYWHEEL_ADAPTER_ROOT FLYWHEEL_ADMIN_KEY=$admin \
  "$gateway" serve --config "$work/flywheel.toml" --model "$MODEL" --data "$work/data" \
  --store embedded --listen "127.0.0.1:$port" >"$work/log" 2>&1 &
pid=$!
url=http://127.0.0.1:$port
is_ready() { python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)' "$url/health/ready" 2>/dev/null; }
for _ in $(seq 150); do
  is_ready && break
  kill -0 "$pid" 2>/dev/null || { cat "$work/log" >&2; fail "the gateway has ended"; }
  sleep 0.2
done
is_ready || { cat "$work/log" >&2; fail "the gateway is not ready"; }
"$python/bin/python" tests/clients/openai_python.py "$url/v1" "$key" "$limited-python"
node tests/clients/openai_node.mjs "$url/v1" "$key" "$limited-node" "$node"
printf 'nice = 0\n[give_way]\nseconds_max = 0.0\n[training]\nlearning_rate = 1e-4\nmicro_batch_pairs = 4\nmicro_batches = 1\n' >"$work/trainer.toml"
env -u FLYWHEEL_STORE -u FLYWHEEL_ADAPTERS -u FLYWHEEL_TRAINER_CONFIG \
  "$trainer" run --config "$work/trainer.toml" --model "$MODEL" --data "$work/data" \
  --store embedded >"$work/trainer.log" 2>&1 &
trainer_pid=$!
"$python/bin/python" tests/clients/openai_fine_tuning.py "$url/v1" "$admin" "$key" ||
  { tail -40 "$work/trainer.log" >&2; fail "a fine-tuning job went wrong"; }
