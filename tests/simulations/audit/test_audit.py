"""Any model file judged against retrained ones: what the document says, and that mistakes are told in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from fedquit.client.data.build_data_and_model import split
from fedquit.client.data.evaluation_sets import sets_of
from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.server.run.run_folder import RunFolder
from fedquit.settings import Settings
from fedquit.simulations.audit.audit import audit
from fedquit.simulations.audit.audited_model import read_model
from fedquit.simulations.audit.command import audit as command
from fedquit.simulations.audit.shadow_models import Shadow, outputs_without
from fedquit.simulations.simulate.run_simulation import run_simulation
from fedquit.unlearning.evaluation.measures import (
    accuracy,
    logit_confidence,
    position,
    predict,
    predict_log,
    svc_attack,
)

TINY = {
    "dataset": "digits",
    "model": "mlp",
    "clients": 3,
    "alpha": 1.0,
    "rounds": 2,
    "forget": "1",
    "recover": "budget",
    "recover_rounds": 1,
    "references": 2,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Document]:
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, run_simulation(TINY, out=out, workers=1)[1]


@pytest.fixture(scope="module")
def run(finished: tuple[Path, Document]) -> Path:
    return finished[0]


@pytest.fixture(scope="module")
def whole(run: Path) -> Document:
    """The recovered model of the run, judged with all that can be given, its shadows aside."""
    return audited(run, "recovered", original="original", control="control")


def file(run: Path, stage: str) -> Path:
    return run / "models" / f"{stage}.safetensors"


def audited(
    run: Path,
    model: str,
    references: tuple[str, ...] = ("retrained", "retrained-1"),
    original: str | None = None,
    control: str | None = None,
    **how: Any,
) -> Document:
    return audit(
        file(run, model),
        reference_files=[file(run, reference) for reference in references],
        original_file=file(run, original) if original else None,
        control_file=file(run, control) if control else None,
        settings=RunFolder(run).settings(),
        **{"relearn_steps": 10, **how},
    )


def varied(run: Path, stage: str, seed: int, target: Path) -> Path:
    """A model near that of a stage, as if trained with another seed."""
    rng = np.random.default_rng(seed)
    arrays = load_file(file(run, stage))
    save_file({name: a + rng.normal(0, 0.01, a.shape).astype(a.dtype) for name, a in arrays.items()}, target)
    return target


def test_the_measures_are_those_of_the_runs_report(finished: tuple[Path, Document], whole: Document) -> None:
    _, report = finished
    for stage, audited in (
        (report["stages"]["recovered"], whole["model"]),
        (report["stages"]["original"], whole["original"]),
        (report["references"][1], whole["references"][1]),
    ):
        for name, value in stage.items():
            if name not in ("attacks", "seed", "scores"):
                assert audited[name] == value, name
        for attack, rates in stage["attacks"].items():
            assert audited["attacks"][attack] == pytest.approx(rates)


def test_the_document_is_json_and_says_what_it_could_not_measure(run: Path, whole: Document) -> None:
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    assert set(whole["not_measured"]) == {"u_lira", "completeness.from_shadows", "memorised"}
    bare = audited(run, "recovered", ("retrained",))
    assert set(bare["not_measured"]) == {"relearn", "completeness", "u_lira", "memorised"}
    assert bare["relearn"] is bare["completeness"] is bare["u_lira"] is bare["original"] is None
    assert bare["verdict"]["outcome"] == "undetermined"
    assert bare["distances"]["js_divergence"]["forget"]["references"] is None


def test_equal_models_have_no_gap_and_no_distance(run: Path) -> None:
    document = audited(run, "retrained", ("retrained",))
    assert document["gaps"] == {"forget_accuracy": 0, "retain_accuracy": 0, "test_accuracy": 0}
    assert document["tow"] == 1
    for parts in document["distances"].values():
        assert all(values["model"] == 0 for values in parts.values())


def test_a_retrained_model_is_consistent_and_one_that_forgot_everything_is_not(run: Path, tmp_path: Path) -> None:
    settings, stages = RunFolder(run).settings(), {name: file(run, name) for name in ("original", "control")}
    references = [varied(run, "matched", seed, tmp_path / f"reference-{seed}.safetensors") for seed in range(1, 6)]
    twin = varied(run, "matched", 0, tmp_path / "twin.safetensors")
    empty = tmp_path / "empty.safetensors"
    save_file({name: np.zeros_like(a) for name, a in load_file(file(run, "retrained")).items()}, empty)

    def outcome(model: Path, **given: Path) -> str:
        return str(
            audit(model, reference_files=references, settings=settings, relearn_steps=1, **given)["verdict"]["outcome"]
        )

    with_control = {"original_file": stages["original"], "control_file": stages["control"]}
    assert outcome(twin, **with_control) == "consistent with retraining"
    assert outcome(empty, **with_control) == "not consistent"
    assert outcome(stages["control"], **with_control) == "not consistent"
    assert outcome(twin) == "undetermined", "nothing forgot nothing here, so nothing says that the test sees it"


def test_the_audit_never_calls_the_original_consistent(run: Path) -> None:
    for references in (("matched",), ("matched", "matched-1")):
        verdict = audited(run, "original", references, original="original")["verdict"]
        assert verdict["outcome"] == "not consistent"
        assert "bit for bit" in verdict["reason"]


def test_report_and_audit_judge_alike_and_so_what_was_memorised(tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = run_simulation({**TINY, "references": 5}, out=out, workers=1)[1]
    references = tuple(f"matched{number}" for number in ("", "-1", "-2", "-3", "-4"))
    document = audited(out, "recovered", references, original="original", control="control")
    assert document["verdict"] == report["verdict"]
    assert document["memorised"] == report["memorised"] is not None
    assert "memorised" not in document["not_measured"]
    assert set(report["verdict"]["measures"]) == {"position", "forget_accuracy", "forget_loss", "test_accuracy"}
    assert set(document["further_tests"]) == {"relearn"}


def test_groups_are_counted_by_class_and_by_client(run: Path, whole: Document) -> None:
    settings = RunFolder(run).settings()
    sets, sizes = sets_of(settings), [len(part) for part in split(settings.key())]
    for measured in (whole["model"], whole["original"]):
        by_client = measured["per_client_accuracy"]
        assert by_client["forget"] == {"1": pytest.approx(measured["forget_accuracy"])}
        assert measured["forget_accuracy_by_request"] == [pytest.approx(measured["forget_accuracy"])]
        clients = {int(client): share for client, share in by_client["retain"].items()}
        mean = (clients[0] * sizes[0] + clients[2] * sizes[2]) / len(sets.retain)
        assert mean == pytest.approx(measured["retain_accuracy"])
        assert measured["worst_client_accuracy"] == min(clients[0], clients[2])
        assert clients[measured["worst_client"]] == measured["worst_client_accuracy"]
        assert min(measured["per_class_accuracy"]) == measured["worst_class_accuracy"]


def test_the_svc_share_is_the_measures_own(run: Path, whole: Document) -> None:
    settings = RunFolder(run).settings()
    sets, (model, _) = sets_of(settings), read_model(file(run, "recovered"), settings)
    outputs = [(predict(model, samples), samples.labels) for samples in (sets.retain, sets.test, sets.forget)]
    assert whole["model"]["attacks"]["svc"]["member_rate"] == pytest.approx(1 - svc_attack(*outputs))
    assert whole["model"]["test_accuracy"] == accuracy(*outputs[1])


def test_the_original_is_where_completeness_and_relearning_begin(run: Path) -> None:
    document = audited(run, "original", original="original")
    completeness = document["completeness"]
    assert completeness["model"] == completeness["original"]
    assert completeness["from_shadows"] is None
    assert completeness["original"]["position"] == 0
    assert len(completeness["references"]) == 2
    assert all(0.5 < reference["position"] < 1.5 for reference in completeness["references"])
    assert document["relearn"]["model"] == {"on_forget": 0, "on_retain": 0}
    assert document["relearn"]["target_accuracy"] == document["original"]["forget_accuracy"]
    assert document["relearn"]["references"][0]["on_forget"] != 0


def test_a_reference_is_placed_by_the_others_never_by_itself(run: Path, whole: Document) -> None:
    settings = RunFolder(run).settings()
    forget = sets_of(settings).forget
    first, second, original = (
        logit_confidence(predict_log(read_model(file(run, stage), settings)[0], forget), forget.labels)
        for stage in ("retrained", "retrained-1", "original")
    )
    found = [reference["position"] for reference in whole["completeness"]["references"]]
    assert found == pytest.approx([position(original, second, first), position(original, first, second)])


def test_an_audit_repeated_says_the_same(run: Path, whole: Document) -> None:
    assert audited(run, "recovered", original="original", control="control") == whole


def write_shadows(run: Path, folder: Path, inside: str, outside: str) -> Path:
    """Four shadows beside a list: two that had D_f, two that never did."""
    forget = [int(sample) for sample in split(RunFolder(run).settings().key())[1]]
    models = []
    for number in range(4):
        name = f"shadow-{number}.safetensors"
        varied(run, inside if number < 2 else outside, number, folder / name)
        had, never = (forget, []) if number < 2 else ([], forget)
        models.append({"file": name, "in": had, "out": never})
    path = folder / "shadows.json"
    path.write_text(json.dumps({"models": models}), encoding="utf-8")
    return path


def test_u_lira_separates_the_original_from_retrained_models(run: Path, tmp_path: Path) -> None:
    shadows = write_shadows(run, tmp_path, "original", "retrained")
    found = audited(run, "original", shadows_file=shadows)["u_lira"]
    size = len(sets_of(RunFolder(run).settings()).forget)
    assert (found["samples"], found["shadow_models"]) == (size, 4)
    assert found["auc"] > 0.8
    assert len(found["auc_of_references"]) == 2
    for rate, needed in (("0.001", 1000), ("0.01", 100)):
        value, reason = found["tpr_at_fpr"][rate].values()
        assert (value is None) == (2 * size < needed) == bool(reason)


def test_u_lira_scores_only_samples_with_enough_shadow_models(run: Path, tmp_path: Path) -> None:
    path = write_shadows(run, tmp_path, "original", "retrained")
    listed = json.loads(path.read_text())
    listed["models"][0]["in"] = listed["models"][0]["in"][:40]
    path.write_text(json.dumps(listed))
    assert audited(run, "original", shadows_file=path)["u_lira"]["samples"] == 40
    listed["models"][0]["in"] = []
    path.write_text(json.dumps(listed))
    document = audited(run, "original", shadows_file=path)
    assert document["u_lira"] is None
    assert "no sample to forget" in document["not_measured"]["u_lira"]


def test_completeness_by_shadows_takes_for_each_sample_those_that_never_had_it(run: Path, tmp_path: Path) -> None:
    path = write_shadows(run, tmp_path, "original", "retrained")
    found = audited(run, "recovered", original="original", shadows_file=path)["completeness"]["from_shadows"]
    settings = RunFolder(run).settings()
    forget = sets_of(settings).forget

    def confidence(model: Path) -> torch.Tensor:
        return logit_confidence(predict_log(read_model(model, settings)[0], forget), forget.labels)

    out = torch.stack([confidence(tmp_path / f"shadow-{number}.safetensors") for number in (2, 3)])
    before, now = confidence(file(run, "original")), confidence(file(run, "recovered"))
    assert (found["samples"], found["models_per_sample"]) == (len(forget), 2)
    assert found["model"]["position"] == pytest.approx(position(before, out.mean(dim=0), now))
    assert found["original"]["position"] == 0
    assert all(reference["position"] > 0.5 for reference in found["references"])


def test_completeness_needs_shadow_models_that_never_had_the_sample(run: Path, tmp_path: Path) -> None:
    path = write_shadows(run, tmp_path, "original", "retrained")
    listed = [{**model, "out": []} for model in json.loads(path.read_text())["models"]]
    path.write_text(json.dumps({"models": listed}))
    document = audited(run, "recovered", original="original", shadows_file=path)
    assert document["completeness"]["from_shadows"] is None
    assert "no sample to forget is 'out'" in document["not_measured"]["completeness.from_shadows"]


def test_the_original_cannot_be_a_shadow_of_itself(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "shadows.json"
    path.write_text(json.dumps({"models": [{"file": str(file(run, "original")), "in": [], "out": [0]}]}))
    with pytest.raises(InputError, match="cannot be its own shadow"):
        audited(run, "recovered", original="original", shadows_file=path)


def test_the_kind_of_shadows_is_repeated_where_it_was_said(run: Path, tmp_path: Path) -> None:
    path = write_shadows(run, tmp_path, "original", "retrained")
    assert audited(run, "original", shadows_file=path)["u_lira"]["kind"] is None
    path.write_text(json.dumps({"kind": "plain", **json.loads(path.read_text())}))
    assert audited(run, "original", shadows_file=path)["u_lira"]["kind"] == "plain"


def test_each_sample_is_held_against_all_models_that_never_had_it_and_no_other() -> None:
    samples = list(range(10, 18))
    outside = [frozenset(samples[:4]), frozenset(samples[4:]), frozenset(samples[::2]), frozenset(samples[1::2])]
    shadows = [
        Shadow(Path(f"{row}"), frozenset(samples) - gone, gone) for row, gone in enumerate([*outside, frozenset({99})])
    ]

    def said(file: Path) -> torch.Tensor:
        return 100 * int(file.name) + torch.arange(9)  # says which model and which sample it is

    without, known = outputs_without(shadows, said, [*samples, 5])
    assert known.tolist() == [True] * 8 + [False]
    assert without.shape == (2, 8)
    for place, sample in enumerate(samples):
        expected = {100 * row + place for row, gone in enumerate(outside) if sample in gone}
        assert set(without[:, place].tolist()) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "does not list shadow models"),
        ("[]", "does not list shadow models"),
        ('{"models": 3}', "does not list shadow models"),
        ('{"models": [{"file": "a"}]}', "does not list shadow models"),
        ('{"models": [{"file": "a", "in": [0.5], "out": []}]}', "whole numbers from 0"),
        ('{"models": [{"file": "a", "in": [3, 4], "out": [4]}]}', "sample 4 is in 'in' and in 'out'"),
        ('{"models": [{"file": "a", "in": [3], "out": []}]}', "cannot read the model"),
    ],
)
def test_a_list_of_shadows_that_is_wrong_is_refused(run: Path, tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "shadows.json"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        audited(run, "recovered", shadows_file=path)


def test_the_audited_model_cannot_be_its_own_shadow(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "shadows.json"
    path.write_text(json.dumps({"models": [{"file": str(file(run, "retrained")), "in": [], "out": [0]}]}))
    with pytest.raises(InputError, match="cannot be its own shadow"):
        audited(run, "recovered", shadows_file=path)


def test_the_same_reference_twice_gives_no_noise_floor(run: Path) -> None:
    with pytest.raises(InputError, match="are the same model"):
        audited(run, "recovered", ("retrained", "retrained"))
    with pytest.raises(InputError, match="at least one --reference"):
        audited(run, "recovered", ())


def spoiled(run: Path, target: Path, how: str) -> Path:
    arrays = dict(load_file(file(run, "recovered")))
    first = next(iter(arrays))
    if how == "cut":
        target.write_bytes(file(run, "recovered").read_bytes()[:-7])
    elif how == "text":
        target.write_text("not a model")
    elif how == "folder":
        target.mkdir()
    elif how != "missing":
        if how == "name":
            arrays["other"] = arrays.pop(first)
        elif how == "extra":
            arrays["other"] = arrays[first]
        elif how == "shape":
            arrays[first] = arrays[first][:-1]
        elif how == "nan":
            arrays[first] = arrays[first] * np.float32("nan")
        save_file(arrays, target)
    return target


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("cut", "damaged"),
        ("text", "damaged"),
        ("missing", "cannot read the model"),
        ("folder", "cannot read the model"),
        ("name", "is absent, should be"),
        ("extra", "'other' is .*, should be absent"),
        ("shape", "does not fit model 'mlp' on digits"),
        ("nan", "NaN or infinity"),
    ],
)
def test_a_file_with_another_model_is_refused_in_one_line(run: Path, tmp_path: Path, how: str, complaint: str) -> None:
    target = spoiled(run, tmp_path / "model.safetensors", how)
    with pytest.raises(InputError, match=complaint) as caught:
        audit(target, reference_files=[file(run, "retrained")], settings=Settings.read(TINY))
    assert "\n" not in str(caught.value)
    assert str(target) in str(caught.value)


def invoke(run: Path, *more: str) -> Result:
    given = [str(file(run, "recovered")), "--reference", str(file(run, "retrained")), "--run", str(run)]
    return CliRunner().invoke(command, [*given, "--relearn-steps", "10", *more], catch_exceptions=True)


def test_the_command_prints_one_document(run: Path, whole: Document) -> None:
    result = invoke(
        run, "--reference", str(file(run, "retrained-1")), "--original", str(file(run, "original")), "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {**whole, "leak": None}


def test_the_command_shows_people_every_measure(run: Path, tmp_path: Path) -> None:
    shadows = write_shadows(run, tmp_path, "original", "retrained")
    result = invoke(run, "--original", str(file(run, "original")), "--shadows", str(shadows))
    assert result.exit_code == 0, result.output
    for text in (
        "forget accuracy",
        "worst client",
        "SVC",
        "tug of war",
        "js divergence",
        "relearn",
        "position",
        "by shadow",
        "U-LiRA",
    ):
        assert text in result.output
    assert "Verdict: undetermined" in result.output
    assert "Not measured: u_lira" in invoke(run).output
    assert "Not measured: memorised: needs --original FILE and 5 models" in invoke(run).output


def test_the_command_refuses_a_folder_without_a_run(run: Path, tmp_path: Path) -> None:
    result = invoke(run, "--run", str(tmp_path / "nowhere"))
    assert isinstance(result.exception, InputError)
    assert "is not the folder of a run" in str(result.exception)
