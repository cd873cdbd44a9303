"""Print the lowest version of each dependency that pyproject.toml allows, as constraints for pip.

PyTorch is left out, as it is large: what is there is taken. Packages that only developers need are too.
"""

import re
import sys
import tomllib
from pathlib import Path

AS_AVAILABLE = ("torch", "torchvision", "fedquit")
EXTRAS = ("server", "simulation", "frames", "postgres", "ray", "tensorboard", "mlflow", "wandb")


def lowest(requirement: str) -> str:
    """Return the constraint of a requirement.

    >>> lowest("flwr[simulation]>=1.41,<2")
    'flwr==1.41'
    """
    found = re.match(r"([A-Za-z0-9._-]+)(?:\[.*?\])?>=([0-9.]+)", requirement)
    if found is None:
        raise SystemExit(f"pyproject.toml: {requirement} has no lower bound")
    return f"{found[1]}=={found[2]}"


def main() -> None:
    """Print the constraints."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [each for name in EXTRAS for each in project["optional-dependencies"][name]]
    names = {lowest(each) for each in wanted if not each.startswith(AS_AVAILABLE)}
    sys.stdout.write("".join(f"{each}\n" for each in sorted(names)))


if __name__ == "__main__":
    main()
