#!/usr/bin/env bash
# Install what the tests need into an environment of their own and run all of them; options go to pytest.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
environment=$root/.venv-tests
stamp=$environment/installed

if [ ! -e "$stamp" ] || [ constraints.txt -nt "$stamp" ] || [ setup.cfg -nt "$stamp" ]; then
  echo "installing into $environment ..."
  python3 -m venv --clear "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
  touch "$stamp"
fi
export PATH=$environment/bin:$PATH
exec python -m pytest "$@"
