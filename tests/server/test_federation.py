import re
from pathlib import Path

import pytest

from fedquit.errors import InputError
from fedquit.server.federation import Federation, Forgetting
from fedquit.server.provision.check_methods import check_methods, check_methods_apart
from fedquit.settings import Scope, Settings, keys_of


def read(folder: Path, text: str) -> Federation:
    (folder / "server.toml").write_text(text)
    federation = Federation.read(folder)
    check_methods(federation, folder / "server.toml")
    return federation


def test_what_is_not_said_has_a_default_and_durations_have_units(tmp_path: Path) -> None:
    told = read(tmp_path, 'name = "clinics"\n[schedule]\nevery = "90s"\n[forgetting]\ndeadline = "2d"\n')
    assert (told.schedule.every, told.schedule.min_clients, told.forgetting.deadline) == (90.0, 2, 172800.0)
    assert told.ledger_url(tmp_path) == f"sqlite:///{tmp_path}/ledger.db"


def test_settings_of_training_and_forgetting_reach_the_devices(tmp_path: Path) -> None:
    told = read(
        tmp_path,
        "\n".join(
            [
                'name = "a"',
                "[training]",
                'model = "mlp"',
                "lr = 0.05",
                "[forgetting]",
                "method-settings = { lr = 0.001 }",
                "patience = 2",
            ]
        ),
    ).settings()
    assert (told.model, told.lr, told.method_settings, told.patience) == ("mlp", 0.05, {"lr": 0.001}, 2)


def test_devices_with_models_of_their_own_are_of_simulations_so_far(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="objective 'fd' has devices train models of their own, which deployed"):
        read(tmp_path, 'name = "a"\n[training]\nobjective = "fd"\n')


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('name = "Two words"', "name: String should match pattern"),
        ("", "name: Field required"),
        ("name =", "not TOML"),
        (
            'name = "a"\n[schedule]\nevery = "soon"',
            'schedule every: should be a number with s, m, h or d, such as "10m"',
        ),
        ('name = "a"\n[training]\nrounds = 3', "[training] rounds: belongs to a simulation"),
        ('name = "a"\n[training]\nmethod = "negate"', "[training] method: belongs to [forgetting]"),
        ('name = "a"\n[training]\nlr = -1', "lr: should be greater than 0, got -1"),
        ('name = "a"\n[forgetting]\nmethod = "fedquitt"', "unknown method 'fedquitt'"),
        ('name = "a"\n[forgetting]\nmethod = "pseudo-ascent"', "has the device train on what is to be forgotten"),
        ('name = "a"\n[forgetting]\nfallback = ["fedquit"]', "forgetting fallback 0"),
        ('name = "a"\n[forgetting]\ntogether = 4', "together: requests are served one after the other"),
        ('name = "a"\n[serverr]\nx = 1', "serverr"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path, text)
    assert named in str(refused.value)
    assert "server.toml" in str(refused.value) or "unknown method" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[forgetting]\nmethod = 'fedquitt'", "unknown method 'fedquitt'"),
        ("[training]\nobjective = 'fd'", "server.toml"),
    ],
)
def test_what_a_server_cannot_carry_out_is_found_by_a_process_of_its_own(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "server.toml").write_text(f'name = "a"\n{text}\n')
    with pytest.raises(InputError, match=named):
        check_methods_apart(tmp_path)


def test_a_folder_without_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"server\.toml"):
        Federation.read(tmp_path)


@pytest.mark.parametrize("scope", [Scope.SIMULATION, Scope.FORGETTING])
def test_a_setting_of_elsewhere_is_refused_in_training_however_it_is_written(scope: Scope) -> None:
    for key in keys_of(scope):
        for written in {key, key.replace("-", "_")}:
            federation = Federation(name="a", training={written: Settings().run_config()[key]})
            with pytest.raises(InputError, match=re.escape(f"{written}: belongs to {scope}; remove it here")):
                federation.settings()


def test_every_other_setting_is_taken_from_training() -> None:
    training = {key: Settings().run_config()[key] for key in keys_of(Scope.TRAINING)}
    assert Federation(name="a", training=training).settings() == Settings()


def test_what_forgetting_has_in_common_with_a_simulation_has_one_default() -> None:
    common = {name for name in Forgetting.model_fields if name in Settings.model_fields}
    assert {name.replace("_", "-") for name in common} == set(keys_of(Scope.FORGETTING))
    for name in common:
        assert getattr(Forgetting(), name) == getattr(Settings(), name)


def test_a_folder_that_is_no_servers_is_named_with_the_one_inside(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a server's folder: it has no server\.toml; `fedquit provision`"):
        Federation.read(tmp_path)
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "server.toml").write_text('name = "clinics"\n', encoding="utf-8")
    with pytest.raises(InputError, match=f"did you mean {re.escape(str(tmp_path / 'server'))}\\?"):
        Federation.read(tmp_path)
