import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedquit.unlearning import ProjectedAscent, Samples
from fedquit.unlearning.methods.projected_ascent import project, radius, reference
from fedquit.unlearning.samples import shuffled_batches


def problem() -> tuple[nn.Linear, Samples, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Linear(3, 4).double()
    samples = Samples(torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % 4)
    return model, samples, {name: value + 0.1 for name, value in model.state_dict().items()}


def slowly(
    method: ProjectedAscent, model: nn.Linear, samples: Samples, own: torch.Tensor, limit: float
) -> torch.Tensor:
    """The oracle: one flat vector, momentum, clip and projection by hand."""
    split = model.weight.numel()
    w = torch.cat([model.weight.detach().flatten(), model.bias.detach()])
    centre, velocity, order = w.clone(), torch.zeros_like(w), torch.Generator().manual_seed(5)
    for _ in range(method.epochs):
        for index in shuffled_batches(len(samples), method.batch_size, order):
            at = w.clone().requires_grad_()
            logits = samples.inputs[index] @ at[:split].view(4, 3).T + at[split:]
            (g,) = torch.autograd.grad(-F.cross_entropy(logits, samples.labels[index]), at)
            parts = [part * min(1.0, method.clip / (part.norm().item() + 1e-6)) for part in (g[:split], g[split:])]
            velocity = method.momentum * velocity + torch.cat(parts)
            w = w - method.lr * velocity
            if (w - centre).norm() > limit:
                w = centre + (w - centre) / (w - centre).norm() * limit
            if method.stop_distance and (w - own).norm() > method.stop_distance:
                return w
    return w


@pytest.mark.parametrize(("limit", "stop"), [(100.0, 0.0), (0.3, 0.0), (100.0, 0.9)])
@pytest.mark.parametrize("clip", [5.0, 0.1])
def test_the_climb_is_that_of_a_plain_oracle(limit: float, stop: float, clip: float) -> None:
    method = ProjectedAscent(lr=0.1, batch_size=6, epochs=4, stop_distance=stop, clip=clip)
    model, samples, own = problem()
    expected = slowly(method, model, samples, torch.cat([own["weight"].flatten(), own["bias"]]), limit)
    method.on_device(model, samples, seed=5, config={"radius": limit}, extra=own)
    found = torch.cat([model.weight.detach().flatten(), model.bias.detach()])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_radius_is_a_third_of_the_mean_distance_to_fresh_models() -> None:
    assert radius([3.0, 6.0, 9.0]) == pytest.approx(2.0)


def test_taking_a_model_out_of_the_mean_leaves_the_mean_of_the_others() -> None:
    models = [{"w": torch.randn(5, dtype=torch.float64)} for _ in range(5)]
    mean = {"w": torch.stack([m["w"] for m in models]).mean(dim=0)}
    torch.testing.assert_close(
        reference(mean, models[:2], 5)["w"], torch.stack([m["w"] for m in models[2:]]).mean(dim=0)
    )


def test_what_is_inside_the_ball_is_not_projected() -> None:
    w = torch.tensor([0.3, 0.4])
    project([w], [torch.zeros(2)], limit=0.6)
    assert torch.equal(w, torch.tensor([0.3, 0.4]))


@pytest.mark.parametrize("seed", range(5))
def test_no_other_point_of_the_ball_is_nearer_than_the_projection(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    centre, given = torch.randn(2, 6, generator=draw, dtype=torch.float64)
    projected = given.clone()
    project([projected], [centre], limit=1.0)
    directions = torch.randn(2000, 6, generator=draw, dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    inside = centre + directions * torch.rand(2000, 1, generator=draw, dtype=torch.float64)
    assert (projected - centre).norm() <= 1 + 1e-12
    assert (inside - given).norm(dim=1).min() >= (projected - given).norm()
