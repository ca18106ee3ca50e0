"""The DiT: patches invert, it starts at zero, conditions and times matter, samples do not see each other, it learns."""

from __future__ import annotations

import math

import pytest
import torch

from ssvae.core.seeds import torch_generator
from ssvae.flow.path import RectifiedFlow
from ssvae.models.dit import VideoDiT
from ssvae.models.dit_tokens import patchify, position_features, unpatchify

GRID = (3, 4, 4)


def make(**changes: object) -> VideoDiT:
    torch.manual_seed(0)
    arguments: dict = {"channels": 5, "grid": GRID, "width": 24, "depth": 2, "heads": 2} | changes
    return VideoDiT(**arguments)


def awake(**changes: object) -> VideoDiT:
    """A model whose zero-initialised layers have been filled, so that every path carries signal."""
    model = make(**changes)
    rng = torch_generator(0, "awake")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    return model.eval()


def latents(count: int, channels: int = 5) -> torch.Tensor:
    return torch.randn(count, channels, *GRID, generator=torch_generator(1, "x"))


@pytest.mark.parametrize("patch", [(1, 2, 2), (3, 1, 4), (1, 1, 1)])
def test_unpatchify_inverts_patchify(patch: tuple[int, int, int]) -> None:
    x = latents(2)
    assert torch.equal(unpatchify(patchify(x, patch), GRID, patch), x)


def test_a_token_holds_exactly_its_patch() -> None:
    x = torch.zeros(1, 5, *GRID)
    x[0, :, 1, 2:4, 0:2] = torch.arange(20.0).reshape(5, 2, 2) + 1
    tokens = patchify(x, (1, 2, 2))
    assert tokens[0].abs().sum(1).nonzero().flatten().tolist() == [4 + 2]
    assert tokens[0, 6].tolist() == [float(i + 1) for i in range(20)]


def test_positions_differ_and_axes_have_sines_of_their_own() -> None:
    table = position_features((3, 4, 5), 26)
    assert table.shape == (60, 26)
    assert int(torch.cdist(table, table).fill_diagonal_(9.0).lt(1e-3).sum()) == 0
    cube = table.reshape(3, 4, 5, 26)
    assert torch.equal(cube[0, 1, 2, :10], cube[0, 3, 4, :10])
    assert torch.equal(cube[0, 1, 2, 10:18], cube[2, 1, 4, 10:18])
    assert torch.equal(cube[0, 1, 2, 18:], cube[2, 3, 2, 18:])


def test_positions_of_another_grid_are_stretched_onto_the_trained_one() -> None:
    """Twice the tokens: every other one is where a trained token was, the others half-way; as many: nothing moves."""
    trained = position_features((3, 4, 4), 24)
    assert torch.equal(position_features((3, 4, 4), 24, (3, 4, 4)), trained)
    larger = position_features((3, 8, 8), 24, (3, 4, 4)).reshape(3, 8, 8, 24)
    torch.testing.assert_close(larger[:, ::2, ::2], trained.reshape(3, 4, 4, 24))
    # The height's fastest frequency is 1: cos(0.5) at half a step, against cos(1) of the plain coordinate.
    share = 24 // 6 * 2
    assert float(larger[0, 1, 0, 24 - 2 * share]) == pytest.approx(math.cos(0.5))
    assert float(position_features((3, 8, 8), 24)[8, 24 - 2 * share]) == pytest.approx(math.cos(1.0))


def test_the_positions_of_a_model_follow_its_base_grid() -> None:
    plain, same, stretched = (make(base_grid=base) for base in (None, GRID, (3, 2, 2)))
    assert torch.equal(plain.positions, same.positions)
    assert not torch.equal(plain.positions, stretched.positions)
    assert {name: value.shape for name, value in plain.state_dict().items()} == {
        name: value.shape for name, value in make(grid=(5, 8, 4)).state_dict().items()
    }, "no weight depends on the grid"


def test_gradient_checkpointing_changes_no_number() -> None:
    results = []
    for flag in (False, True):
        model = awake(gradient_checkpointing=flag).train()
        out = model(latents(2), torch.tensor([0.2, 0.7]), model.encode_conditions(["red", None]))
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_gradient_checkpointing_computes_blocks_again_and_only_where_a_gradient_is_asked_for() -> None:
    model = awake(gradient_checkpointing=True)
    calls: list[int] = []
    model.blocks[0].register_forward_pre_hook(lambda *given: calls.append(1))
    with torch.no_grad():
        model(latents(1), torch.rand(1))
    assert len(calls) == 1
    model(latents(1), torch.rand(1)).sum().backward()
    assert len(calls) == 3, "once forward, once in the backward pass"


@pytest.mark.parametrize("skip", [False, True])
def test_output_is_zero_at_the_start_and_blocks_are_the_identity(skip: bool) -> None:
    model = make(input_skip=skip)
    assert torch.equal(model(latents(2), torch.rand(2)), torch.zeros(2, 5, *GRID))
    tokens = torch.randn(2, 12, 24)
    assert torch.equal(model.blocks[0](tokens, torch.randn(2, 24)), tokens)


@pytest.mark.parametrize(
    ("kind", "labels"), [("caption", ["a red circle", "a blue cross", "red", None]), ("class", [0, 1, 2, None])]
)
def test_conditions_and_times_change_the_output_after_a_step(kind: str, labels: list) -> None:
    model = make(condition=kind, classes=4)
    x, t, ids = latents(4), torch.full((4,), 0.5), model.encode_conditions(labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(4):  # the zero-initialised layers open one after the other
        optimizer.zero_grad()
        (model(x, t, ids) - x.roll(1, 0)).square().mean().backward()
        optimizer.step()
    same = x[:1].expand(4, -1, -1, -1, -1)
    out = model(same, t, ids).detach().flatten(1)
    assert float(torch.cdist(out, out).fill_diagonal_(9.0).min()) > 1e-4
    torch.testing.assert_close(model(same, t), model(same, t, model.null_conditions(4)))
    assert float((model(x, t, ids) - model(x, t + 0.3, ids)).detach().abs().max()) > 1e-4


def test_every_parameter_gets_a_gradient() -> None:
    model = awake(condition="class", classes=3, input_skip=True).train()
    model(latents(3), torch.rand(3), model.encode_conditions([0, 2, None])).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    assert silent == []


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    model = awake()
    x, t = latents(5), torch.linspace(0.1, 0.9, 5)
    ids = model.encode_conditions(["red", "a green square", None, "blue", "x y z"])
    together = model(x, t, ids)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(model(x[order], t[order], ids[order]), together[order], atol=1e-5, rtol=1e-5)
    for row in range(5):
        alone = model(x[row : row + 1], t[row : row + 1], ids[row : row + 1])
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-5, rtol=1e-5)


def test_attention_reaches_every_frame_both_ways() -> None:
    model = awake(condition="none")
    x = latents(1).requires_grad_()
    for frame in range(GRID[0]):
        gradient = torch.autograd.grad(model(x, torch.full((1,), 0.5))[0, :, frame].sum(), x)[0]
        assert bool((gradient.abs().amax(dim=(0, 1, 3, 4)) > 0).all())


def test_input_skip_is_a_gain_a_channel() -> None:
    model = make(input_skip=True)
    assert model.skip_gain is not None
    with torch.no_grad():
        model.skip_gain.bias.copy_(torch.arange(5.0))
    x = latents(2)
    torch.testing.assert_close(model(x, torch.rand(2)), x * torch.arange(5.0).reshape(1, 5, 1, 1, 1))


def test_overfits_a_tiny_batch() -> None:
    model = make(width=48, condition="class", classes=2, input_skip=True)
    x, ids, flow = latents(2), model.encode_conditions([0, 1]), RectifiedFlow()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    times = torch.linspace(0.3, 0.95, 16)
    x, ids = x.repeat(8, 1, 1, 1, 1), ids.repeat(8)
    losses = []
    for step in range(150):
        optimizer.zero_grad()
        loss = flow.loss(lambda noisy, t: model(noisy, t, ids), x, torch_generator(step, "fit"), times).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.5
    assert sum(losses[-10:]) / 10 < 0.25 * losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": (3, 5, 4)}, r"3x5x4 is not divisible by patch 1x2x2; a patch of 1x1x2 fits"),
        ({"width": 26, "heads": 4}, "divisible by heads"),
        ({"condition": "prose"}, "caption, text, class, none"),
        ({"condition": "text"}, "needs texts"),
        ({"base_grid": (3, 5, 4)}, "base_grid 3x5x4 is not divisible"),
        ({"condition": "class"}, "classes 0"),
        ({"patch": (2, 2)}, "three positive counts"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B,5,3,4,4\)"):
        make()(torch.zeros(2, 5, 3, 4, 6), torch.rand(2))
    with pytest.raises(ValueError, match="takes no condition"):
        make(condition="none")(latents(1), torch.rand(1), torch.zeros(1, dtype=torch.int64))
    assert make(condition="none").encode_conditions(["red"]) is None
