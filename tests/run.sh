#!/usr/bin/env bash
# Install what the tests need into an environment of their own and run them, two files at a time; options go to pytest.
#   bash tests/run.sh            the fast ones
#   bash tests/run.sh --slow     the long ones as well
#   bash tests/run.sh --kills    all of those, and many more kills at random moments
#   bash tests/run.sh -n 0 ...   one test at a time, which --pdb and -s need
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
# A file stays with one worker, so what its tests share is made once. In the order of the folders: the short files
# of the last ones leave no worker waiting for a long one.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
