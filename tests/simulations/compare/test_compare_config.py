"""What a comparison's file says, what runs it makes, and that each mistake in it is told by file and key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedquit.errors import InputError
from fedquit.settings import Part, Settings, keys_of
from fedquit.simulations.compare.cells.comparison_folder import check_folder
from fedquit.simulations.compare.cells.plan_cells import Cell, plan, targets_of
from fedquit.simulations.compare.cells.repeat_command import ALWAYS, simulate_command
from fedquit.simulations.compare.config.comparison_checks import checked_targets
from fedquit.simulations.compare.config.comparison_config import DECIDED, ROW_KEYS, Comparison
from fedquit.simulations.compare.config.read_config import FIXED_SEEDS, make_comparison, read_comparison

CONFIGS = Path(__file__).resolve().parents[3] / "simulations" / "configs"
TOLD: dict[str, Any] = {
    "targets": [0, [1, 2]],
    "seeds": [0, 7],
    "references": 3,
    "budget": 4,
    "settings": {"model": "mlp", "rounds": 6},
    "methods": {"fedquit": {}, "fedquit, entropy": {"method": "fedquit", "teacher": "entropy"}, "negate": {}},
}


def told(**changes: Any) -> Comparison:
    return make_comparison({**TOLD, **changes}, "a.toml")


def cells(**changes: Any) -> list[Cell]:
    comparison = told(**changes)
    return plan(comparison, targets_of(comparison))


def different(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    return {key for key in one if one[key] != other[key]}


def test_a_comparison_names_settings_only() -> None:
    assert {*DECIDED, *ROW_KEYS, *FIXED_SEEDS, *ALWAYS} <= set(keys_of(*Part))


def test_the_plan_of_an_earlier_version_is_still_the_same_comparison(tmp_path: Path) -> None:
    now = told().document()
    before = {**now, "settings": {**now["settings"], "secure-aggregation": False}}
    del before["settings"]["history-bytes"]  # as if it had come since
    (tmp_path / "plan.json").write_text(json.dumps(before))
    check_folder(tmp_path, now, resume=True, overwrite=False)
    with pytest.raises(InputError, match=r"settings\.lr: the comparison in .* has 0\.1, not 0\.2"):
        check_folder(tmp_path, told(settings={**TOLD["settings"], "lr": 0.2}).document(), resume=True, overwrite=False)


@pytest.mark.parametrize("content", ["{", "[]", "3", "{}", '{"methods": 3, "settings": {}}'])
def test_a_plan_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(InputError, match=r"plan\.json"):
        check_folder(tmp_path, told().document(), resume=True, overwrite=False)


def test_every_row_target_and_seed_is_one_cell_and_trainings_come_first() -> None:
    planned = cells()
    assert [cell.folder for cell in planned[:2]] == ["seed-0/base", "seed-7/base"]
    assert [cell.kind for cell in planned[2:]] == ["references", "row", "row", "row"] * 4
    met = [(cell.row, cell.target, cell.seed) for cell in planned if cell.kind == "row"]
    assert len(met) == len(set(met)) == 3 * 2 * 2
    assert len({cell.folder for cell in planned}) == len(planned)


def test_split_and_untrained_model_are_the_same_for_every_seed_and_row() -> None:
    for cell in cells():
        assert (cell.settings["split-seed"], cell.settings["model-seed"]) == (0, 0)
        assert cell.settings["seed"] == cell.seed
    assert {cell.settings["split-seed"] for cell in cells(settings={"split-seed": 5})} == {5}


def test_rows_differ_in_what_a_row_may_set_and_in_nothing_else() -> None:
    first, *others = [cell.settings for cell in cells() if (cell.kind, cell.seed, cell.target) == ("row", 0, (0,))]
    assert len(others) == 2
    for other in others:
        assert different(first, other) <= set(ROW_KEYS)


def test_a_training_keeps_history_for_all_methods_and_belongs_to_none() -> None:
    rows = {"fedquit": {"teacher": "entropy"}, "federaser": {}}
    for base in cells(methods=rows, settings={"method-settings": {}, "tolerance": 0.2})[:2]:
        assert (base.kind, base.base, base.phases) == ("base", None, frozenset({"train"}))
        assert [traits.history for traits in base.keep] == ["none", "every"]
        assert (base.settings["method"], base.settings["teacher"], base.settings["budget"]) == ("continue", "min", 0)


def test_references_are_retrained_and_trained_on_as_many_as_are_asked_for() -> None:
    references = [cell for cell in cells() if cell.kind == "references"]
    assert references[0].base == "seed-0/base"
    retrained = {"retrain", "retrain-1", "retrain-2"}
    trained_on = {"match", "match-1", "match-2", "control"}
    assert references[0].phases == frozenset({"train", *retrained, *trained_on})
    assert references[0].settings["references"] == 3
    assert references[1].settings["forget"] == "1,2"


def test_every_row_has_the_same_budget_and_recovers_within_it() -> None:
    rows = [cell for cell in cells() if cell.kind == "row"]
    assert {(cell.settings["budget"], cell.settings["recover-rounds"]) for cell in rows} == {(4, 4)}
    free = [cell for cell in cells(budget=0) if cell.kind == "row"]
    assert {(cell.settings["budget"], cell.settings["recover-rounds"]) for cell in free} == {(0, 30)}


def test_what_the_file_says_of_recovery_wins_over_the_budget() -> None:
    rows = {"fedquit": {"recover-rounds": 9}, "negate": {}}
    found = {cell.row: cell.settings["recover-rounds"] for cell in cells(methods=rows, settings={"recover-rounds": 7})}
    assert (found["fedquit"], found["negate"]) == (9, 7)


def test_targets_of_granularity_class_are_labels() -> None:
    planned = cells(settings={"granularity": "class"}, targets=[[3, 1]], methods={"fedquit": {}})
    row = planned[-1].settings
    assert (row["forget-class"], row["granularity"], planned[-1].folder) == (
        "1,3",
        "class",
        "seed-7/target-1-3/fedquit",
    )


def test_all_means_every_client_and_every_class_of_the_data() -> None:
    assert checked_targets(told(targets="all", settings={"clients": 3})) == ((0,), (1,), (2,))
    classes = told(targets="all", settings={"granularity": "class", "clients": 3})
    assert checked_targets(classes) == tuple((label,) for label in range(10))
    with pytest.raises(InputError, match="from the data, which is not read here"):
        checked_targets(classes, with_data=False)


def test_the_same_comparison_spelled_otherwise_is_the_same() -> None:
    methods = {**TOLD["methods"], "negate": {"method": "negate", "recover": "utility"}}
    same = told(methods=methods, settings={"model": "mlp", "rounds": 6, "lr": 0.1, "local_epochs": 1})
    assert same.document() == told().document()
    assert told(settings={"model": "mlp", "rounds": 6, "lr": 0.2}).document() != told().document()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": [0]}, "a.toml: unknown key 'seed' (did you mean 'seeds'?)"),
        ({"title": ""}, "a.toml: title: must be text"),
        ({"targets": []}, "a.toml: targets: must be"),
        ({"targets": "some"}, "a.toml: targets: must be"),
        ({"targets": [True]}, "a.toml: targets: must be"),
        ({"targets": [[]]}, "a.toml: targets: must be"),
        ({"targets": [0, -1]}, "a.toml: targets: must be"),
        ({"targets": [0, [0]]}, "a.toml: targets: 0 is there twice"),
        ({"targets": [5]}, "a.toml: targets: forget: there is no client 5; clients are 0..4"),
        ({"targets": [[0, 1, 2, 3, 4]]}, "a.toml: targets: forget: all 5 clients would leave"),
        ({"targets": [10], "settings": {"granularity": "class"}}, "there is no class 10; classes are 0..9"),
        ({"seeds": []}, "a.toml: seeds: must be a list"),
        ({"seeds": 3}, "a.toml: seeds: must be a list"),
        ({"seeds": [1, 1]}, "a.toml: seeds: 1 is there twice"),
        ({"references": 0}, "a.toml: references: must be a whole number, 1..20, got 0"),
        ({"budget": 1.5}, "a.toml: budget: must be a whole number, at least 0, got 1.5"),
        ({"settings": []}, "a.toml: [settings]: must be a table"),
        ({"settings": {"round": 3}}, "a.toml: [settings]: unknown key 'round' (did you mean 'rounds'?)"),
        ({"settings": {"rounds": 0}}, "a.toml: [settings]: rounds: "),
        ({"settings": {"forget": "0"}}, "a.toml: [settings]: forget is not for here: targets says it"),
        ({"settings": {"seed": 1}}, "a.toml: [settings]: seed is not for here: seeds says it"),
        ({"settings": {"budget": 1}}, "budget is not for here"),
        ({"settings": {"local-epochs": 1, "local_epochs": 2}}, "a.toml: [settings]: local-epochs is given twice"),
        ({"settings": {"split-seed": -1}}, "a.toml: [settings]: split-seed: -1 would give every seed its own"),
        ({"settings": {"partition": "p.json"}}, "a.toml: [settings]: partition: a comparison splits the data itself"),
        ({"settings": {"recover": "oracle"}}, "a.toml: [settings]: recover = oracle needs the retrained model first"),
        ({"settings": {"dataset": "digitz"}}, "a.toml: [settings]: unknown dataset 'digitz' (did you mean 'digits'?)"),
        ({"settings": {"model": "resnet81"}}, "a.toml: [settings]: unknown model 'resnet81'"),
        ({"settings": {"clients": 5000}}, "5000 clients cannot share 1438 samples"),
        (
            {"settings": {"history-bytes": 1000}, "methods": {"federaser": {}}},
            "a.toml: [settings]: history-bytes: up to",
        ),
        ({"methods": {}}, "a.toml: there is no [methods.NAME] table"),
        ({"methods": {"fedquit": 3}}, "a.toml: [methods.fedquit]: must be a table, got 3"),
        (
            {"methods": {"fedquitt": {}}},
            "a.toml: [methods.fedquitt]: unknown method 'fedquitt' (did you mean 'fedquit'?)",
        ),
        ({"methods": {"fedquit": {"lr": 1}}}, "a.toml: [methods.fedquit]: unknown key 'lr'"),
        ({"methods": {"fedquit": {"teacher": "mim"}}}, "a.toml: [methods.fedquit]: unknown"),
        ({"methods": {"fedquit": {"method-settings": "speed=3"}}}, "a.toml: [methods.fedquit]: unknown setting"),
        ({"methods": {"negate": {"teacher": "entropy"}}}, "teacher is a setting of method fedquit, not of negate"),
        ({"methods": {"negate": {"recover": "oracle"}}}, "a.toml: [methods.negate]: recover = oracle needs"),
        ({"methods": {"a b": {"method": "negate"}, "A-B": {"method": "negate"}}}, "would share the folder 'a-b'"),
        ({"methods": {"references": {"method": "negate"}}}, "the name cannot be a folder's"),
        ({"methods": {"方法": {"method": "negate"}}}, "the name cannot be a folder's"),
        (
            {"settings": {"granularity": "sample"}, "methods": {"federaser": {}}},
            "a.toml: [methods.federaser]: method 'federaser' forgets by client, not by sample",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_mistake_names_the_file_and_the_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        checked_targets(told(**changes))
    assert said in str(error.value)


def test_the_command_that_repeats_a_run_says_all_that_is_not_default() -> None:
    for cell in cells(settings={"model": "mlp", "download": True, "column": "a b"}):
        settings = Settings.read(cell.settings)
        words = simulate_command(settings).split()
        assert words[:2] == ["fedquit", "simulate"]
        assert "--download" in words
        assert "--column 'a b'" in simulate_command(settings)
        for flag in ("--seed", "--split-seed", "--model-seed", "--forget", "--method"):
            assert words[words.index(flag) + 1] == str(cell.settings[flag[2:]])


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("compare-*.toml")) + sorted(CONFIGS.glob("paper-*.toml")), ids=str)
def test_the_files_that_come_along_pass_all_checks_that_need_no_data(file: Path) -> None:
    comparison = read_comparison(file)
    planned = plan(comparison, checked_targets(comparison, with_data=False))
    assert len([cell for cell in planned if cell.kind == "row"]) >= 4


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such config file: .*nowhere\.toml"):
        read_comparison(tmp_path / "nowhere.toml")
