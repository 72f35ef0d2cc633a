#!/usr/bin/env bash
# A release, tried before it is made; by hand, as it installs torch more than once:
#   bash tests/release.sh FOLDER [PYTHON ...]
# Builds the sdist and, out of it, the wheel; then, with each Python (python3 if none is named), installs the wheel into
# a bare environment below FOLDER and takes the tour of sample_data with it, outside of this checkout.
set -euo pipefail
mkdir -p "${1:?the folder of the builds and environments}"
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
repository=$PWD
export PIP_DISABLE_PIP_VERSION_CHECK=1

rm -rf "$folder/dist"
python3 -m venv "$folder/build"
"$folder/build/bin/pip" install --quiet build
"$folder/build/bin/python" -m build --outdir "$folder/dist" .
wheel=$(ls "$folder"/dist/*.whl)
cp -r sample_data "$folder/sample_data"
for python in "${@:-python3}"; do
    environment=$folder/$(basename "$python")
    "$python" -m venv --clear "$environment"
    "$environment/bin/pip" install --quiet "$wheel"
    cd "$folder"
    PATH="$environment/bin:$PATH" sh sample_data/tour.sh > "$environment/tour.txt" 2>&1
    "$environment/bin/latentkit" --version
    "$environment/bin/latentkit" guide > /dev/null
    test -s "$environment/share/man/man1/latentkit.1"
    cd "$repository"
    echo "$wheel: the tour ends well with $("$environment/bin/python" --version)"
done
