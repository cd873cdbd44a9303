"""Settings: one line that names the key for every mistake, and the same settings whichever way they travel."""

import itertools
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquit.errors import InputError
from fedquit.settings import GROUPS, Group, Part, Scope, Settings, keys_of, load_settings_file, marks, run


def read(**given: Any) -> Settings:
    return Settings.read(given)


def refusal(given: dict[str, Any], source: str = "run.toml") -> str:
    with pytest.raises(InputError) as caught:
        Settings.read(given, source)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{source}: ")
    return text


def test_kebab_and_snake_case_are_the_same_keys() -> None:
    assert Settings.read({"local-epochs": 3}) == Settings.read({"local_epochs": 3}) == Settings(local_epochs=3)


def test_one_key_written_both_ways_is_refused_not_guessed() -> None:
    assert "local-epochs" in refusal({"local-epochs": 2, "local_epochs": 3})


def test_what_is_not_given_is_the_default() -> None:
    assert Settings.read({"rounds": 3}) == Settings().model_copy(update={"rounds": 3})


@pytest.mark.parametrize(("key", "near"), [("round", "rounds"), ("local_epoch", "local-epochs"), ("aplha", "alpha")])
def test_an_unknown_key_names_the_nearest_one_and_all_others(key: str, near: str) -> None:
    text = refusal({key: 1})
    assert f"unknown key '{key.replace('_', '-')}'" in text
    assert f"did you mean '{near}'?" in text
    assert "method-settings" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rounds", 0),
        ("rounds", 2.5),
        ("rounds", "many"),
        ("clients", 0),
        ("fraction", 0),
        ("fraction", 1.01),
        ("alpha", 0),
        ("alpha", float("nan")),
        ("alpha", float("inf")),
        ("lr", -0.1),
        ("lr-decay", 1.5),
        ("momentum", 1),
        ("tolerance", -0.01),
        ("references", 101),
        ("seed", -1),
        ("seed", 2**31),
        ("scheme", "diri"),
        ("recover", "never"),
        ("download", "perhaps"),
        ("dataset", 3),
        ("forget", ""),
        ("forget", -1),
        ("forget", "one"),
        ("forget", 1.5),
        ("forget", [[[0]]]),
        ("forget", []),
        ("forget", [[]]),
        ("forget", {"client": 0}),
        ("forget", None),
        ("rounds", [1, 2]),
    ],
)
def test_a_value_out_of_range_is_named_with_its_key_in_one_line(key: str, value: Any) -> None:
    text = refusal({key: value})
    assert text.startswith(f"run.toml: {key}: ")
    assert "got" in text


@pytest.mark.parametrize(
    ("given", "requests"),
    [
        ("0,3", ((0, 3),)),
        (3, ((3,),)),
        ([0, 3], ((0, 3),)),
        ("3, 0", ((3, 0),)),
        ("2,", ((2,),)),
        ("0,3,0", ((0, 3),)),
        ([1, 1], ((1,),)),
        ("0;3", ((0,), (3,))),
        ("0, 1 ; 3", ((0, 1), (3,))),
        ([[0, 1], [3]], ((0, 1), (3,))),
    ],
)
def test_who_is_forgotten_is_read_from_text_a_number_or_a_list(given: Any, requests: Any) -> None:
    assert read(forget=given).forget == requests


def test_a_request_of_nobody_and_one_made_twice_are_refused() -> None:
    assert "a request names nobody" in refusal({"forget": "0;;3"})
    assert "client 3 asks to be forgotten twice" in refusal({"forget": "3;0,3"})


@pytest.mark.parametrize("twice", ["0,00", "0, 0", [0, "0"]])
def test_the_same_client_written_in_two_ways_is_forgotten_once(twice: Any) -> None:
    assert read(forget=twice).forget == ((0,),)


def test_a_client_to_forget_that_is_not_there_is_named_with_those_that_are() -> None:
    assert "there is no client 5; clients are 0..4" in refusal({"forget": "0,5"})
    assert read(forget=4).forget == ((4,),)


def test_somebody_must_stay() -> None:
    assert "all 2 clients would leave" in refusal({"clients": 2, "forget": "0,1"})
    assert "all 1 clients would leave" in refusal({"clients": 1})


def test_the_oracle_needs_a_reference_to_look_at() -> None:
    assert "reference = retrain" in refusal({"recover": "oracle", "reference": "none"})


def test_a_teacher_without_fedquit_is_refused() -> None:
    assert "method fedquit, not of retrain" in refusal({"method": "retrain", "teacher": "fixed"})


def test_scheme_column_needs_its_column() -> None:
    assert "column = NAME" in refusal({"scheme": "column"})


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", {}),
        ("lr=0.001,epochs=2", {"lr": 0.001, "epochs": 2}),
        ("lr=-1e-3, batch-size = 8", {"lr": -0.001, "batch_size": 8}),
        ("lr=.5", {"lr": 0.5}),
        ("quick=true,slow=false", {"quick": True, "slow": False}),
        ("teacher=fixed,", {"teacher": "fixed"}),
        ("path=a=b", {"path": "a=b"}),
        ({"lr": 0.5}, {"lr": 0.5}),
        ({"batch-size": 8}, {"batch_size": 8}),
    ],
)
def test_a_methods_own_settings_are_read_with_their_types(text: Any, pairs: dict[str, Any]) -> None:
    got = Settings.read({"method-settings": text}).method_settings
    assert got == pairs
    assert [type(value) for value in got.values()] == [type(value) for value in pairs.values()]


@pytest.mark.parametrize("bad", ["lr", "=3", "lr=0.1,,epochs", "lr=nan", "lr=inf", {"lr": [1, 2]}, 3, {"lr": None}])
def test_method_settings_that_are_none_are_refused(bad: Any) -> None:
    assert "method-settings" in refusal({"method-settings": bad})


def test_the_teacher_reaches_fedquit_and_no_other_method() -> None:
    assert read(teacher="fixed", method_settings="lr=1").method_options() == {"teacher": "fixed", "lr": 1}
    assert read(method="retrain").method_options() == {}


def is_plain_text(text: str) -> bool:
    """Say whether a text cannot be taken for a number or a truth value."""
    return text not in {"true", "false", "inf", "nan", "infinity"}


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters=",="), max_size=8)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.from_regex(r"[a-zé][a-zé:/._ -]{0,6}[a-zé]", fullmatch=True).filter(is_plain_text),
)


@settings(max_examples=100)
@given(
    forget=st.sets(st.integers(0, 6), min_size=1, max_size=6),
    lr=st.floats(1e-300, 1e300),
    download=st.booleans(),
    dataset=TEXT,
    options=st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True), SCALARS, max_size=3),
)
def test_settings_survive_the_way_through_flowers_run_config(
    forget: set[int], lr: float, download: bool, dataset: str, options: dict[str, Any]
) -> None:
    told = Settings.read(
        {
            "clients": 7,
            "forget": sorted(forget),
            "lr": lr,
            "download": download,
            "dataset": dataset,
            "method-settings": options,
        }
    )
    config = told.run_config()
    assert all(isinstance(value, bool | int | float | str) and "_" not in key for key, value in config.items())
    back = Settings.read(config)
    assert back == told
    assert back.key() == told.key()
    assert [type(v) for v in back.method_settings.values()] == [type(v) for v in told.method_settings.values()]


@pytest.mark.parametrize("text", ["true", "5", "1e3", "-0.5", "", " spaced ", "x,y", "1,b=2", "'", '"', "a=b"])
def test_a_text_among_method_settings_stays_that_text_or_is_refused(text: str) -> None:
    try:
        told = Settings.read({"method-settings": {"name": text}})
    except InputError:
        return
    assert Settings.read(told.run_config()).method_settings == {"name": text}


def test_flowers_run_config_may_name_a_folder_and_the_nodes_are_the_clients() -> None:
    assert Settings.from_run_config({"out": "x", "rounds": 2}, 9) == Settings(rounds=2, clients=9)


def test_a_run_config_is_read_while_another_thread_reads_another(monkeypatch: pytest.MonkeyPatch) -> None:
    is_of, others = run._Read.is_of, iter(range(50, 60))

    def meanwhile(known: run._Read, *wanted: Any) -> bool:
        for other in itertools.islice(others, 1):
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(Settings.from_run_config, {"rounds": other}).result().rounds == other
        return is_of(known, *wanted)

    Settings.from_run_config({"rounds": 2})
    monkeypatch.setattr(run._Read, "is_of", meanwhile)
    assert Settings.from_run_config({"rounds": 49}).rounds == 49


def test_flowers_run_config_lists_every_setting_with_its_default() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    config = project["tool"]["flwr"]["app"]["config"]
    expected = {key: value for key, value in Settings().run_config().items() if key != "clients"}
    assert list(config.items()) == [("out", ""), *expected.items()]
    assert Settings.from_run_config(config, Settings().clients) == Settings()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_its_part_its_scope_and_its_line_of_help(name: str) -> None:
    part, scope = marks(Settings, name)
    assert part in Part
    assert scope in Scope
    assert Settings.model_fields[name].description


def test_a_setting_that_says_neither_is_an_error_where_it_is_read() -> None:
    class Bare(Group):
        width: int = 3

    with pytest.raises(TypeError, match=r"setting width .* declare it with setting\(\)"):
        marks(Bare, "width")


def test_how_to_forget_is_given_in_one_table_and_who_asks_in_none() -> None:
    assert set(keys_of(Part.METHOD)) <= set(keys_of(Scope.FORGETTING))
    assert set(keys_of(Part.REQUEST)) <= set(keys_of(Scope.SIMULATION))


def test_every_setting_is_of_one_group_and_in_its_order() -> None:
    assert [name for group in GROUPS for name in group.model_fields] == list(Settings.model_fields)
    assert [key.replace("-", "_") for key in keys_of(*Part)] == list(Settings.model_fields)
    assert keys_of(*Part) == keys_of(*Scope) == tuple(Settings().run_config())


@pytest.mark.parametrize("name", ["secure-aggregation", "secure_aggregation"])
def test_a_retired_setting_that_says_nothing_is_left_out_and_no_other_value_is(name: str) -> None:
    assert Settings.read({name: False, "lr": 0.5}) == Settings(lr=0.5)
    assert Settings.from_run_config({name: False, "out": ""}, 3) == Settings(clients=3)
    refused = refusal({name: True})
    assert "secure-aggregation: no longer a setting" in refused
    assert "masks that a server can guess (docs/strategies.md" in refused


def test_requests_served_together_are_refused_with_the_reason() -> None:
    assert Settings.read({"together": 1}) == Settings()
    assert "together: requests are served one after the other, as serving several in one step would hide" in refusal(
        {"together": 4}
    )


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("rounds = 3\nforget = [0, 2]\n[method-settings]\nlr = 0.5\nbatch-size = 8\n", encoding="utf-8")
    got = Settings.read(load_settings_file(path))
    assert (got.rounds, got.forget, got.method_settings) == (3, ((0, 2),), {"lr": 0.5, "batch_size": 8})


@pytest.mark.parametrize("kind", ["missing", "folder", "not TOML", "not text", "under a file"])
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "not TOML":
        path.write_text("rounds = = 3", encoding="utf-8")
    elif kind == "not text":
        path.write_bytes(b"rounds = 3 # \xff\xfe")
    elif kind == "under a file":
        path.write_text("", encoding="utf-8")
        path = path / "more.toml"
    with pytest.raises(InputError) as caught:
        load_settings_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"classes": 10},
        {"input-shape": "1x8x8"},
        {"classes": 10, "input-shape": "8x8"},
        {"classes": 0},
        {"classes": "a,"},
    ],
)
def test_half_a_form_or_one_that_cannot_be_is_refused(given: dict[str, Any]) -> None:
    assert "classes" in refusal(given) or "input-shape" in refusal(given)
