"""Objectives of devices with a model of their own: fd, fedproto and fedkd, by hand and by identity."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.client.objectives import Done, LocalRound, make_objective
from fedquit.client.objectives.base.frozen_teacher import logits_and_features
from fedquit.client.objectives.base.sharing import class_counts, class_means, form_of
from fedquit.client.objectives.base.svd_update import packed, packed_forms, unpacked
from fedquit.client.objectives.fd import ClassLogits, class_kl, leave_one_out
from fedquit.client.objectives.fedkd import FedKD, ModelOutput, mutual
from fedquit.client.objectives.fedproto import Prototypes, distance_to_prototypes, with_features
from fedquit.client.training.sgd import deterministic
from fedquit.errors import FedquitError, InputError
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.truncated_svd import rank_of

FEATURES, CLASSES = 5, 4
NAN = math.nan


def samples(size: int = 20, classes: int = CLASSES) -> Samples:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, classes, (size,), generator=generator)
    return Samples(torch.randn(size, FEATURES, generator=generator), labels)


def net(hidden: int = 8, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(FEATURES, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, CLASSES)
        )


def local_round(**changed: Any) -> LocalRound:
    return LocalRound(**{"seed": 3, "lr": 0.1, "epochs": 2, "batch_size": 6, **changed})


def trained(name: str, now: LocalRound, **own: Any) -> tuple[nn.Module, Done]:
    model = net()
    with deterministic(7):
        done = make_objective(name, **own).train(model, samples(), now)
    return model, done


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# fd


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), devices=st.integers(2, 5), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_leaving_one_out_is_the_sum_less_ones_own_part(seed: int, devices: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    replies = {
        client: {
            "logits": torch.randn(3, 3, generator=generator),
            "counts": torch.randint(1, 9, (3,), generator=generator),
        }
        for client in range(devices)
    }
    total = torch.stack([said["logits"].double() for said in replies.values()]).sum(dim=0)
    for client, said in replies.items():
        expected = (total - said["logits"].double()) / (devices - 1)  # the paper's equation
        assert torch.allclose(leave_one_out(replies, client, 3).double(), expected, atol=1e-6)
    assert torch.allclose(leave_one_out(replies, 99, 3).double(), total / devices, atol=1e-6)
    z, goal = replies[0]["logits"], replies[1]["logits"]
    p, q = (goal / temperature).softmax(dim=1), (z / temperature).softmax(dim=1)
    assert torch.allclose(class_kl(z, goal, temperature), (p * (p / q).log()).sum(dim=1), atol=1e-5)


def test_a_device_alone_and_a_class_that_nobody_else_has_have_no_term() -> None:
    said = {"logits": torch.ones(2, 2), "counts": torch.tensor([1, 0])}
    assert leave_one_out({0: said}, 0, 2).isnan().all()
    assert leave_one_out({0: said, 1: said}, 1, 2).isnan().all(dim=1).tolist() == [False, True]
    student = torch.randn(2, 2, requires_grad=True)
    each = class_kl(student, torch.tensor([[0.0, 5.0], [NAN, NAN]]))
    each.sum().backward()  # type: ignore[no-untyped-call]
    assert each[1] == 0
    assert student.grad is not None
    assert student.grad[1].tolist() == [0, 0], "not NaN: a masked NaN must not come back by the gradient"
    assert student.grad[0].abs().sum() > 0


def test_class_means_are_of_the_samples_of_each_class() -> None:
    rows, labels = torch.tensor([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]), torch.tensor([2, 2, 0])
    assert class_means(rows, labels, 3).tolist() == [[9, 9], [0, 0], [2, 3]]
    assert class_counts(labels, 3).tolist() == [1, 0, 2]


def test_fd_sends_mean_logits_of_each_class_and_keeps_the_model() -> None:
    model, done = trained("fd", local_round())
    data = samples()
    with torch.no_grad():
        logits = model.eval()(data.inputs)
    for label in range(CLASSES):
        assert torch.allclose(done.send["logits"][label], logits[data.labels == label].mean(dim=0), atol=1e-5)
    assert done.send["counts"].tolist() == torch.bincount(data.labels, minlength=CLASSES).tolist()
    assert done.keep is not None
    assert same(done.keep, model.state_dict())
    assert {name: form_of(tensor) for name, tensor in done.send.items()} == ClassLogits(CLASSES).forms


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("fd", {"logits": torch.full((CLASSES, CLASSES), NAN)}),
        ("fedproto", {"prototypes": torch.full((CLASSES, 8), NAN)}),
        ("fd", {"logits": torch.eye(CLASSES)}),
        ("fedproto", {"prototypes": torch.ones(CLASSES, 8)}),
    ],
)
def test_without_anything_to_imitate_a_device_trains_as_if_alone(name: str, shared: dict[str, Tensor]) -> None:
    alone, _ = trained("fedavg", local_round())
    first, _ = trained(name, local_round())
    later, _ = trained(name, local_round(shared=shared))
    assert same(first.state_dict(), alone.state_dict())
    says_something = not any(tensor.isnan().any() for tensor in shared.values())
    assert same(later.state_dict(), alone.state_dict()) != says_something
    weightless, _ = trained(name, local_round(shared=shared), weight=0)
    assert same(weightless.state_dict(), alone.state_dict())


# fedproto


def test_the_term_is_the_mean_squared_distance_to_the_prototype_of_the_label() -> None:
    features = torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.0, 0.0]], requires_grad=True)
    prototypes = torch.tensor([[1.0, 0.0], [NAN, NAN], [0.0, 3.0]])
    each = distance_to_prototypes(features, prototypes, torch.tensor([0, 1, 2]))
    assert each.tolist() == [2.0, 0.0, 4.5]
    each.sum().backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    assert features.grad.tolist() == [[0, 2], [0, 0], [0, -3]]  # 2 (h - prototype) / d


def test_prototypes_cover_the_devices_classes_and_are_averaged_by_samples() -> None:
    sharing = Prototypes(3, 2)
    one = {"prototypes": torch.tensor([[1.0, 1.0], [2.0, 2.0]]), "counts": torch.tensor([1, 0, 5], dtype=torch.int32)}
    two = {"prototypes": torch.tensor([[5.0, 5.0]]), "counts": torch.tensor([3, 0, 0], dtype=torch.int32)}
    shared = {f"{client}/{name}": value for client, said in ((10, one), (2, two)) for name, value in said.items()}
    went = sharing.down(shared, 10, None)["prototypes"]
    assert went[[0, 2]].tolist() == [[4.0, 4.0], [2.0, 2.0]]
    assert went[1].isnan().all()
    assert sharing.without(shared, {2}).keys() == {"10/prototypes", "10/counts"}
    assert sharing.down(sharing.without(shared, {2, 10}), 10, None) == {}


def test_fedproto_sends_the_mean_features_of_its_classes() -> None:
    data = samples(classes=3)  # no sample of the fourth class
    model = net()
    with deterministic(7):
        done = make_objective("fedproto").train(model, data, local_round())
    with torch.no_grad():
        _, features = logits_and_features(model.eval(), data.inputs)
    assert done.send["prototypes"].shape == (3, 8)
    for label in range(3):
        assert torch.allclose(done.send["prototypes"][label], features[data.labels == label].mean(dim=0), atol=1e-5)
    assert done.send["counts"].dtype == torch.int32


@pytest.mark.parametrize(("counts", "rows"), [([2, 2, 1], 2), ([-1, 6, 0], 1), ([5, 1, 0], 2), ([0, 0, 0], 1)])
def test_a_reply_that_contradicts_itself_is_refused(counts: list[int], rows: int) -> None:
    sent = {"prototypes": torch.zeros(rows, 2), "counts": torch.tensor(counts, dtype=torch.int32)}
    with pytest.raises(InputError, match=r"counts"):
        Prototypes(3, 2).read(sent, {}, 5)


@pytest.mark.parametrize("claimed", [(), (0,), (-3, 2), (10**9, 2), (2, 10**9)])
def test_a_reply_decides_the_number_of_prototypes_and_nothing_else(claimed: tuple[int, ...]) -> None:
    forms = Prototypes(3, 2).fits({"prototypes": claimed}, {})
    assert 1 <= forms["prototypes"].shape[0] <= 3
    assert forms["prototypes"].shape[1:] == (2,)


def test_a_layer_of_features_makes_two_models_alike_in_what_they_share() -> None:
    for hidden in (8, 12):
        model = with_features(net(hidden), features=6)
        logits, features = logits_and_features(model.eval(), samples().inputs)
        assert (logits.shape, features.shape) == ((20, CLASSES), (20, 6))


# fedkd


def test_each_of_the_two_has_the_gradient_of_its_own_loss_in_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(3, size, generator=generator, dtype=torch.float64) for size in (CLASSES, 5, CLASSES, 5)]
    labels = torch.tensor([0, 3, 1])

    def gradients(loss: Any) -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in drawn]
        return list(torch.autograd.grad(loss(*leaves), leaves, allow_unused=True, materialize_grads=True))

    def own(z: Tensor, h: Tensor, other_z: Tensor, other_h: Tensor) -> Tensor:
        ce, other = F.cross_entropy(z, labels), F.cross_entropy(other_z, labels).detach()
        kl = F.kl_div(z.log_softmax(1), other_z.detach().log_softmax(1), reduction="batchmean", log_target=True)
        return ce + (kl + F.mse_loss(h, other_h.detach())) / (ce.detach() + other)

    ours = gradients(lambda zt, ht, zs, hs: mutual(ModelOutput(zt, ht), ModelOutput(zs, hs), labels))
    teachers = gradients(lambda zt, ht, zs, hs: own(zt, ht, zs, hs))[:2]
    mentees = gradients(lambda zt, ht, zs, hs: own(zs, hs, zt, ht))[2:]
    for got, expected in zip(ours, [*teachers, *mentees], strict=True):
        assert torch.allclose(got, expected)


def test_where_the_two_agree_both_learn_from_the_labels_alone() -> None:
    said, labels = ModelOutput(torch.randn(3, CLASSES), torch.randn(3, 5)), torch.tensor([0, 1, 2])
    assert mutual(said, said, labels) == pytest.approx(2 * float(F.cross_entropy(said.logits, labels)), rel=1e-6)


def test_factors_keep_the_energy_with_the_fewest_singular_values() -> None:
    generator = torch.Generator().manual_seed(1)
    update = {"conv": torch.randn(12, 3, 5, 5, generator=generator), "bias": torch.randn(12, generator=generator)}
    update["conv"] *= 0.3 ** torch.arange(12.0)[:, None, None, None]
    sent = packed(update, 0.95)
    values = torch.linalg.svdvals(update["conv"].flatten(1))
    (rank,) = sent["conv/s"].shape
    assert rank == rank_of(values, 0.95)
    assert (sent["conv/u"].shape, sent["conv/v"].shape) == ((12, rank), (rank, 75))
    back = unpacked(sent, update)
    assert back["conv"].square().sum() >= 0.95 * update["conv"].square().sum()
    assert values[: rank - 1].square().sum() < 0.95 * values.square().sum(), "one fewer would not do"
    assert torch.equal(back["bias"], update["bias"])
    assert packed_forms({name: tuple(t.shape) for name, t in sent.items()}, update) == {
        name: form_of(tensor) for name, tensor in sent.items()
    }


def test_factors_that_would_be_larger_do_not_travel_nor_are_they_let_in() -> None:
    update = {"w": torch.eye(4), "steps": torch.tensor(3)}
    assert packed(update, 0.95).keys() == {"w/whole", "steps/whole"}
    assert packed_forms({"w/s": (3,), "steps/s": (1,)}, update)["w/s"].shape == (1,), "not as many as claimed"
    assert "steps/whole" in packed_forms({"steps/s": (1,)}, update)


def round_of_fedkd(teacher: nn.Module, now: LocalRound, mentee: nn.Module) -> Done:
    with deterministic(7):
        return FedKD().train(teacher, samples(), local_round(shared=now.shared, state=now.state, mentee=mentee))


def test_two_rounds_of_fedkd_have_device_and_server_at_the_same_mentee() -> None:
    mentee, objective = net(hidden=6, seed=1), FedKD()
    sharing = objective.sharing(mentee, CLASSES)
    first = dict(mentee.state_dict())
    before = {name: tensor.clone() for name, tensor in first.items()}
    done = round_of_fedkd(net(), local_round(shared=first), mentee)
    assert same(first, before), "what the server sent is as it was"
    assert done.keep is not None
    theirs = sharing.read(done.send, first, 20)
    second, news = sharing.adopt(first, theirs, 0.5)
    assert news is not None
    assert not same(second, first)
    got = objective.received(local_round(shared=news, state=done.keep), first)
    assert same(got, second), "what it changed by, added to what the device had, is what the server has"
    assert sum(t.numel() for t in news.values()) <= sum(t.numel() for t in second.values())
    later = round_of_fedkd(net(), local_round(shared=news, state=done.keep), mentee)
    assert later.keep is not None
    assert same(
        {n: t for n, t in later.keep.items() if n.startswith("mentee/")}, {f"mentee/{n}": t for n, t in got.items()}
    )
    with pytest.raises(FedquitError, match=r"no longer has the mentee"):
        objective.received(local_round(shared=news), first)


def test_the_teacher_is_trained_and_stays_on_the_device() -> None:
    mentee = net(hidden=6, seed=1)
    teacher = net()
    done = round_of_fedkd(teacher, local_round(shared=mentee.state_dict()), mentee)
    assert done.keep is not None
    assert same(FedKD().own_model(done.keep), teacher.state_dict())
    assert not same(teacher.state_dict(), net().state_dict())
    names = {name.rpartition("/")[0] for name in done.send}
    assert names == set(mentee.state_dict())


def test_factors_that_multiply_to_infinity_are_refused() -> None:
    model = {"w": torch.zeros(4, 5)}
    sent = {"w/u": torch.full((4, 1), 1e30), "w/s": torch.full((1,), 1e30), "w/v": torch.ones(1, 5)}
    with pytest.raises(InputError, match="multiply to NaN or infinity"):
        FedKD().sharing(net(), CLASSES).read(sent, model, 1)


def test_energy_grows_in_a_straight_line() -> None:
    assert FedKD().energy(0.5) == pytest.approx(0.965)


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("fd", {"logits": torch.eye(CLASSES)}),
        ("fedproto", {"prototypes": torch.ones(CLASSES, 8)}),
        ("fedkd", net(hidden=6, seed=1).state_dict()),
    ],
)
def test_teachers_and_saved_state_are_unchanged_bit_for_bit_by_training(name: str, shared: dict[str, Tensor]) -> None:
    mentee = net(hidden=6, seed=1) if name == "fedkd" else None
    came = {key: tensor.clone() for key, tensor in shared.items()}
    _, done = trained(name, local_round(shared=shared, mentee=mentee))
    assert done.keep is not None
    kept = {key: tensor.clone() for key, tensor in done.keep.items()}
    trained(name, local_round(shared=shared, state=kept, mentee=mentee))
    assert same(shared, came)
    assert same(done.keep, kept)
    if mentee is not None:
        assert same(mentee.state_dict(), net(hidden=6, seed=1).state_dict()), "buffers too"
