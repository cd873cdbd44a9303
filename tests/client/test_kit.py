from pathlib import Path

import pytest

from fedquit.client.kit import Kit
from fedquit.errors import InputError

TOLD = 'federation = "a"\nsuperlink = "h:1"\nforget = "h:2"\nname = "north"\nnumber = 3\n'


def test_a_kit_says_who_and_where(tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text(TOLD + 'data = "images"\n')
    kit = Kit.read(tmp_path)
    assert (kit.federation, kit.name, kit.number, kit.role) == ("a", "north", 3, "device")
    assert kit.path(kit.data) == tmp_path / "images"
    assert kit.path("/elsewhere/images") == Path("/elsewhere/images")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "does not say: federation, superlink, forget, name, number"),
        (TOLD.replace("3", '"3"'), "number is '3', not a number"),
        (TOLD.replace('"north"', "7"), "name is 7, not a text"),
        (TOLD + 'dta = "x"', "unknown key in"),
        (TOLD + 'role = "boss"', "role is 'boss'"),
        ("name =", "not TOML"),
    ],
)
def test_a_mistake_in_a_kit_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "device.toml").write_text(text)
    with pytest.raises(InputError) as refused:
        Kit.read(tmp_path)
    assert named in str(refused.value)


def test_a_folder_without_a_kit_is_named_with_the_way_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a kit: it has no device\.toml; `fedquit provision` makes kits"):
        Kit.read(tmp_path)
