"""The critic against the official code's logits and parameter counts, and its causality by gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssvae.models.critic import PatchCritic, official_to_ours, smallest_size

GOLDEN = Path(__file__).parents[2] / "golden"
"""Files and their source: tests/golden/README.md."""


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name in ("official_critic.npz", "official_tiny_io_video.npz"):
        with np.load(GOLDEN / name) as file:
            found.update({key: torch.from_numpy(file[key]) for key in file.files})
    return found


@pytest.fixture(scope="module")
def official() -> PatchCritic:
    critic = PatchCritic(width=4)
    state = torch.load(GOLDEN / "official_tiny.ckpt", weights_only=True)["state_dict"]
    weights = {official_to_ours(name): value for name, value in state.items() if name.startswith("loss.disc")}
    critic.load_state_dict(weights, strict=True)
    return critic.eval()


@pytest.mark.parametrize("kind", ["video", "image"])
def test_logits_are_those_of_the_official_code(
    kind: str, official: PatchCritic, golden: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        logits = official(golden[f"{kind}_x"])
    for found, name in zip(logits, (f"{kind}_2d", f"{kind}_3d"), strict=True):
        # Random vectors of the spectral norms make logits of 1e5 and 1e8: only relative errors say anything.
        scale = float(golden[name].abs().max())
        assert found.shape == golden[name].shape
        assert float((found - golden[name]).abs().max()) < 1e-4 * scale
        assert scale > 1e4


def test_parameters_at_full_width() -> None:
    with torch.device("meta"):
        critic = PatchCritic(width=64, levels=4, temporal_levels=2)
    counts = [sum(p.numel() for p in part.parameters()) for part in (critic.frames, critic.clips, critic)]
    assert counts == [6_958_145, 8_792_705, 15_750_850]


def trained(**sizes: int) -> PatchCritic:
    torch.manual_seed(0)
    return PatchCritic(width=4, **sizes).double().eval()


def test_the_clip_critic_never_looks_ahead() -> None:
    critic = trained(levels=2, temporal_levels=2)
    video = torch.randn(1, 3, 9, 16, 16, dtype=torch.float64, requires_grad=True)
    _, logits = critic(video)
    assert logits.shape == (1, 1, 3, 4, 4)
    for frame, last_seen in enumerate((0, 4, 8)):
        (gradient,) = torch.autograd.grad(logits[:, :, frame].sum(), video, retain_graph=True)
        seen = gradient.abs().amax(dim=(0, 1, 3, 4)) > 0
        assert bool(seen[last_seen]) and not bool(seen[last_seen + 1 :].any())


def test_the_frame_critic_sees_one_frame_at_a_time() -> None:
    critic = trained(levels=2, temporal_levels=1)
    video = torch.randn(2, 3, 5, 16, 16, dtype=torch.float64)
    logits, _ = critic(video)
    alone, _ = critic(video[:, :, 3:4])
    assert logits.shape == (2, 1, 5, 2, 2)
    assert torch.allclose(logits[:, :, 3:4], alone, rtol=1e-12)


@pytest.mark.parametrize(("levels", "temporal"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 2)])
def test_shapes_and_the_smallest_size(levels: int, temporal: int) -> None:
    critic = trained(levels=levels, temporal_levels=temporal)
    side = critic.smallest_size
    assert side == smallest_size(levels)
    for frames in (1, 9):
        of_frames, of_clip = critic(torch.zeros(1, 3, frames, side, side, dtype=torch.float64))
        assert of_frames.shape == (1, 1, frames, 1, 1)
        assert of_clip.shape == (1, 1, 1 + (frames - 1) // 2**temporal, 3, 3)
    with pytest.raises(ValueError, match=rf"{side} pixels a side.*lower critic.levels"):
        critic(torch.zeros(1, 3, 1, side - 1, side, dtype=torch.float64))


@pytest.mark.parametrize("sizes", [{"width": 0}, {"levels": 0}, {"levels": 1, "temporal_levels": 2}])
def test_sizes_that_make_no_network(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="critic width"):
        PatchCritic(**sizes)


def test_spectral_norms_move_in_training_forwards_only_and_bound_the_weights() -> None:
    torch.manual_seed(0)
    critic = PatchCritic(width=4, levels=2, temporal_levels=1)
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    video = torch.randn(1, 3, 5, 16, 16)
    critic.eval()(video)
    assert all(torch.equal(value, before[name]) for name, value in critic.state_dict().items())
    critic.train()
    for _ in range(30):
        critic(video)
    moved = {name for name, value in critic.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.endswith(("_u", "_v")) for name in moved)
    for module in (critic.frames.conv_in, critic.clips.conv_in, critic.clips.conv_out):
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        assert float(torch.linalg.matrix_norm(weight.flatten(1), 2).detach()) == pytest.approx(1.0, abs=2e-2)


def test_logits_are_float32_under_bf16() -> None:
    critic = trained(levels=2, temporal_levels=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert {logits.dtype for logits in critic(torch.zeros(1, 3, 5, 16, 16))} == {torch.float32}
