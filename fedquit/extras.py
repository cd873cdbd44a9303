"""What is installed for whom: the base is what a device needs; a server and simulations have an extra each.

pip install fedquit                         a device: join, forget, leave, record, verify
pip install 'fedquit[server]'               provision, serve, member, ledger
pip install 'fedquit[simulation]'           simulate, compare, audit, figures
pip install 'fedquit[frames]'               results as DataFrames, in Python
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from fedquit.errors import InputError

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "server": ("alembic", "fastapi", "grpc_health", "jinja2", "sqlalchemy", "tomli_w", "uvicorn"),
    "simulation": ("flwr_datasets", "matplotlib", "scipy", "sklearn"),
    "frames": ("pandas",),
}
"""The packages of each extra, as they are imported."""


def missing_extra(module: str | None) -> str:
    """Return what to do where a module could not be found; "": it belongs to no extra.

    >>> missing_extra("sklearn.datasets")
    "sklearn is not installed: pip install 'fedquit[simulation]'"
    """
    package = (module or "").partition(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), "")
    return f"{package} is not installed: pip install 'fedquit[{extra}]'" if extra else ""


@contextmanager
def extras_named() -> Iterator[None]:
    """Say of a package that could not be imported which extra has it; also a decorator.

    Raises:
        InputError: a package of an extra is not installed; the line says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if missing := missing_extra(error.name):
            raise InputError(missing) from error
        raise


def check_extra(extra: str) -> None:
    """Look whether the packages of an extra are installed, without importing them.

    Raises:
        InputError: one is not; the line says how to install it.
    """
    for package in EXTRAS[extra]:
        if not _is_there(package):
            raise InputError(missing_extra(package))


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # it is in `sys.modules`, and no module
        return False
