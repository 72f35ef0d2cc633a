"""Print what advisories are known of the packages in .venv. Never a failure: it is news of others' code, from a service
that may be away, and a commit that was right yesterday is right today. SECURITY.md says who acts on it."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PATIENCE = 60


def audit(folder: str) -> list[dict[str, Any]]:
    """What pip-audit, installed apart in ``folder``, says of each package."""
    (site,) = Path(".venv/lib").glob("python3*/site-packages")
    options = ["--progress-spinner", "off", "--timeout", "10", "--format", "json", "--output", f"{folder}/found.json"]
    for command in (
        [sys.executable, "-m", "venv", folder],
        [f"{folder}/bin/pip", "install", "--quiet", "pip-audit"],
        [f"{folder}/bin/pip-audit", "--path", str(site), *options],
    ):
        subprocess.run(command, timeout=PATIENCE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads(Path(folder, "found.json").read_text())["dependencies"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            packages = audit(folder)
        except (OSError, ValueError, LookupError, subprocess.TimeoutExpired) as error:
            print(f"not checked: {error}")
            return
    checked = [package for package in packages if "vulns" in package]
    for package in checked:
        for known in package["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {known['id']}, mended in {fixed}")
    print(f"{len(checked)} of {len(packages)} packages are known to the service")


if __name__ == "__main__":
    main()
