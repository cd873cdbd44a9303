"""The config of `fedquit provision`: federation.toml, which is server.toml with the members.

[[device]]
name = "north"
data = "/srv/images"           # on the device; relative paths begin in its kit
public-key = "north.pub"       # the device's own key; left out: one is made, and lies in its kit

[[operator]]
name = "ada"
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from fedquit.errors import InputError
from fedquit.server.federation import Federation, Table
from fedquit.server.provision.check_methods import check_methods
from fedquit.settings import load_settings_file

MEMBERS = ("device", "operator")


class PlannedMember(Table):
    """A member as federation.toml names it; `data` and `holdout` are for devices."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    data: str = "data"
    holdout: str = ""
    public_key: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A federation to be made ready: the config of its server, and who belongs to it, by role."""

    federation: Federation
    members: dict[str, tuple[PlannedMember, ...]]
    source: Path


def read_plan(path: Path) -> Plan:
    """Return what federation.toml says.

    Raises:
        InputError: naming the file, the key and what is wrong with it.
    """
    federation, document = Federation.parse(path, beside=MEMBERS), load_settings_file(path)
    check_methods(federation, path)
    members = {role: _members(document.get(role, []), f"{path}: [[{role}]]") for role in MEMBERS}
    if not members["device"]:
        raise InputError(f"{path}: there is no [[device]]; a federation needs at least one")
    twice = [name for name, times in Counter(m.name for those in members.values() for m in those).items() if times > 1]
    if twice:
        raise InputError(f"{path}: two members are called '{twice[0]}'; give each a name of its own")
    return Plan(federation, members, path)


def _members(given: object, where: str) -> tuple[PlannedMember, ...]:
    try:
        return TypeAdapter(tuple[PlannedMember, ...]).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = " ".join(str(part) for part in first["loc"])
        raise InputError(f"{where} {key}: {first['msg'].removeprefix('Input ')}, got {first['input']!r}") from None
