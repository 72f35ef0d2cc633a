#!/usr/bin/env bash
# The suite with exactly the lower bounds of pyproject.toml, so that they are true; run by hand, as it installs a
# CUDA build of torch (several GB):  bash tests/lower_bounds.sh FOLDER [PYTEST ARGUMENTS]
# FOLDER is where the environment is made, or was by a run before. PYTHON names the interpreter, python3.11 if not set.
set -euo pipefail
mkdir -p "${1:?the folder of the environment}"
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
unset PIP_CONSTRAINT
export PIP_DISABLE_PIP_VERSION_CHECK=1

[ -x "$folder/bin/pip" ] || "${PYTHON:-python3.11}" -m venv "$folder"
"$folder/bin/python" - > "$folder/bounds.txt" <<'PYTHON'
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
# The extra "dev" names the others as vae-latentkit[…].
bounds = [*project["dependencies"], *(bound for extra in extras.values() for bound in extra)]
print("\n".join(bound.replace(">=", "==") for bound in bounds if not bound.startswith("vae-latentkit[")))
PYTHON
cat "$folder/bounds.txt"
"$folder/bin/pip" install --quiet --requirement "$folder/bounds.txt" --editable .
"$folder/bin/pytest" -q "$@"
