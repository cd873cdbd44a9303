"""The configs that ship have names: what a name means, what a mistake is told, and a copy to edit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedquit.errors import InputError
from fedquit.settings import Settings, load_settings_file
from fedquit.simulations.compare.comparison import planned
from fedquit.simulations.compare.config.read_config import read_comparison
from fedquit.simulations.configs.shipped_configs import ShippedConfig, find_config, shipped_configs

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("config", shipped_configs(), ids=lambda config: f"{config.command}-{config.name}")
def test_every_config_that_ships_can_be_read_by_its_name(config: ShippedConfig) -> None:
    path = find_config(Path(config.name), config.command)
    assert path == config.path
    if config.command == "compare":
        assert planned(Path(config.name))
    else:
        Settings.read(load_settings_file(path), path.name)


def test_a_name_means_what_the_command_makes_of_it() -> None:
    simulated, compared = (find_config(Path("fashion-mnist"), command) for command in ("simulate", "compare"))
    assert (simulated.name, compared.name) == ("fashion-mnist.toml", "compare-fashion-mnist.toml")


def test_a_report_names_a_shipped_config_without_a_folder_of_the_machine() -> None:
    assert read_comparison(Path("samples-10")).source == "samples-10"


def test_a_file_wins_over_a_config_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("targets = [1]\nseeds = [4]\n[methods.negate]\n", encoding="utf-8")
    assert read_comparison(Path("digits")).seeds == (4,)


def test_a_folder_of_the_same_name_does_not_hide_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert read_comparison(Path("digits")).title == "Ways of forgetting on digits"


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("compare", "samples-11", "unknown config 'samples-11' (did you mean 'samples-10'?); known: class, digits"),
        (
            "simulate",
            "fashon",
            "(did you mean 'fashion-mnist'?); known: fashion-mnist, fashion-mnist-paper; "
            "or give the path of a TOML file",
        ),
        ("simulate", "samples-10", "samples-10 is a config of another command: fedquit compare samples-10"),
        ("compare", "mine.toml", "no such config file: mine.toml"),
        ("simulate", "configs/mine", "no such config file: configs/mine"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line_with_the_known_ones(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, given: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(command, given)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_configs_are_listed_for_people_and_for_programs(run: Run) -> None:
    listed = json.loads(run("configs", "--json")[1])
    assert {(config.command, config.name) for config in shipped_configs()} == {
        (each["command"], each["name"]) for each in listed
    }
    assert "samples-10" in run("configs")[1]


def test_a_config_is_printed_as_it_is_to_be_copied_and_edited(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "mine.toml"
    copy.write_text(run("configs", "compare", "digits")[1], encoding="utf-8")
    assert copy.read_bytes() == find_config(Path("digits"), "compare").read_bytes()
    assert json.loads(run("configs", "compare", "digits", "--json")[1])["text"] == copy.read_text(encoding="utf-8")
    for arguments, said in (
        (["compare", "nothing"], "unknown config 'nothing'"),
        (["compare"], "name the config to print"),
        (["digits"], "unknown command with configs 'digits'; known: simulate, compare"),
    ):
        code, _, err = run("configs", *arguments)
        assert code == 4
        assert said in err


def test_nothing_is_found_where_nothing_can_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such config file"):
        read_comparison(tmp_path / "digits")
