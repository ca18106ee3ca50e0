"""Counting on tensors without memory: by hand, by PyTorch's own counter on real tensors, and the same on both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from ssvae.bench.cost_meter import Meter, count, drop_gradients, quantiles
from ssvae.models.norm import NormSiLU
from ssvae.models.vae import VideoVAE

META = torch.device("meta")


def vae() -> VideoVAE:
    return VideoVAE(
        channels=4, base_channels=4, multipliers=[1, 2, 2], encoder_blocks=1, decoder_blocks=1,
        temporal_levels=[False, True],
    )  # fmt: skip


@pytest.mark.parametrize(("from_data", "passes"), [(True, 2), (False, 3)])
def test_convolution_by_hand(from_data: bool, passes: int) -> None:
    """Forward, the weight's gradient, and the input's where something asks for it: as many products each."""
    x = torch.empty(2, 3, 7, 8, 8, device=META, requires_grad=not from_data)
    weight = torch.empty(5, 3, 3, 3, 3, device=META, requires_grad=True)
    found = count(lambda: F.conv3d(x, weight, padding=(0, 1, 1)).sum().backward(), existing=[x, weight])
    positions = 5 * 8 * 8  # two frames fewer
    assert found.flops == passes * 2 * 27 * 3 * 5 * 2 * positions


def test_transposed_convolution_and_product_by_hand() -> None:
    x, kernel = torch.empty(1, 6, 3, 4, 4, device=META), torch.empty(6, 2, 3, 4, 4, device=META)
    assert count(lambda: F.conv_transpose3d(x, kernel, stride=(1, 2, 2))).flops == 2 * 48 * 6 * 2 * (3 * 4 * 4)
    left, right = torch.empty(7, 11, 13, device=META), torch.empty(7, 13, 5, device=META)
    assert count(lambda: left @ right).flops == 2 * 7 * 11 * 13 * 5


def round_trip(model: VideoVAE, video: Tensor) -> None:
    mean, _ = model.encode_moments(video).chunk(2, dim=1)
    model.decode(mean).square().mean().backward()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_real_tensors_give_the_same_count(checkpointing: bool) -> None:
    """With custom functions, merged kernels and recomputed blocks in it, against PyTorch's counter."""
    real = vae()
    with META:
        shapes = vae()
    for model in (real, shapes):
        model.set_gradient_checkpointing(checkpointing)
        drop_gradients(model.parameters())
    size = (2, 3, 5, 16, 16)
    theirs, meter = FlopCounterMode(display=False), Meter([*real.parameters(), *real.buffers()], device="cpu")
    with sdpa_kernel(SDPBackend.MATH), theirs:
        round_trip(real, torch.zeros(size))
    with sdpa_kernel(SDPBackend.MATH), meter:
        round_trip(real, torch.zeros(size))
    ours = count(
        lambda: round_trip(shapes, torch.empty(size, device=META)), existing=[*shapes.parameters(), *shapes.buffers()]
    )
    assert ours.flops == theirs.get_total_flops() == meter.flops > 0
    # A backward convolution's own copies differ a little between devices.
    assert ours.peak == pytest.approx(meter.peak, rel=0.06)


def test_peak_by_hand() -> None:
    def work() -> None:
        first = torch.empty(1000, device=META)
        second = first.view(10, 100) + 1  # a view is no memory of its own: 8,000 bytes now
        del first
        third = second + given  # 8,000 again
        del second, third
        torch.empty(500, device=META)

    given = torch.empty(10, 100, device=META)
    assert count(work, existing=[given]).peak == 8000
    assert count(lambda: given.flatten(), existing=[given]).peak == 0
    assert count(lambda: torch.empty(3, dtype=torch.bfloat16, device=META)).peak == 6


def test_peak_holds_what_autograd_saves() -> None:
    """An independent look: the hooks of autograd's own, over a forward pass."""
    with META:
        model, video = vae(), torch.empty(2, 3, 5, 16, 16)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.decode(model.encode_moments(video).chunk(2, dim=1)[0])
    kept = sum(saved.values())
    assert out.shape == video.shape
    forward = count(
        lambda: model.decode(model.encode_moments(video).chunk(2, dim=1)[0]), existing=[*model.parameters(), video]
    )
    assert kept - video.untyped_storage().nbytes() <= forward.peak < 1.2 * kept


def test_custom_function_saves_its_input_and_one_number_a_position() -> None:
    with META:
        norm, x = NormSiLU(16), torch.empty(1, 16, 3, 8, 8, requires_grad=True)
        x = x.contiguous(memory_format=torch.channels_last_3d)
    out, inverse = 16 * (2 + 3) * 64 * 4, 3 * 64 * 4
    held: list[Tensor] = []
    found = count(lambda: held.append(norm(x, 2)), existing=[x, *norm.parameters()])
    assert out + inverse <= found.peak <= out + 3 * inverse + 3 * 16 * 4


def test_gradients_of_parameters_are_dropped() -> None:
    def backward() -> None:
        layer(torch.empty(1, 1000, device=META)).sum().backward()

    with META:
        layer = nn.Linear(1000, 1000)
    kept = count(backward, existing=layer.parameters())
    assert layer.weight.grad is not None
    layer.zero_grad(set_to_none=True)
    drop_gradients(layer.parameters())
    dropped = count(backward, existing=layer.parameters())
    assert layer.weight.grad is None and dropped.flops == kept.flops
    twice = count(lambda: (backward(), backward()), existing=layer.parameters())
    assert twice.peak == dropped.peak, "nothing is left behind"


def attention(**options: bool) -> Callable[[Tensor], Tensor]:
    return lambda x: F.scaled_dot_product_attention(x, x, x, **options)


def test_attention_of_several_heads_keeps_no_weights() -> None:
    n, heads, width = 512, 4, 16
    x = torch.empty(2, heads, n, width, device=META, requires_grad=True)
    fused = count(lambda: attention()(x).sum().backward(), existing=[x])
    weights = 2 * heads * n * n
    assert fused.flops == 2 * weights * width * (2 + 5)  # the backward makes the weights again
    assert fused.peak < weights * 4
    with torch.no_grad():
        one_head = count(lambda: attention()(x[:, 0]), existing=[x])
    assert one_head.flops == 2 * weights // heads * width * 2 and one_head.peak >= weights // heads * 4


def test_masked_attention_keeps_no_weights_either() -> None:
    """Latent tokens look at text tokens, some of which are not there."""
    batch, heads, n, texts, width = 2, 4, 512, 256, 16
    x = torch.empty(batch, heads, n, width, device=META, requires_grad=True)
    y = torch.empty(batch, heads, texts, width, device=META, requires_grad=True)
    present = torch.ones(batch, 1, 1, texts, dtype=torch.bool, device=META)
    found = count(lambda: F.scaled_dot_product_attention(x, y, y, attn_mask=present).sum().backward(), existing=[x, y])
    weights = batch * heads * n * texts
    assert found.flops == 2 * weights * width * (2 + 5) and found.peak < weights * 4


@pytest.mark.parametrize("backward", [lambda out, x: out.backward(), lambda out, x: torch.autograd.grad(out, x)])
def test_attention_that_is_computed_again(backward: Callable[[Tensor, Tensor], object]) -> None:
    """In a backward pass it is the same operator as before; afterwards PyTorch's own is back."""
    x = torch.empty(1, 4, 512, 16, device=META, requires_grad=True)

    def work(again: bool) -> None:
        inner = (lambda: checkpoint(attention(), 2 * x, use_reentrant=False)) if again else lambda: attention()(2 * x)
        backward((inner() * 3).square().sum(), x)

    own = F.scaled_dot_product_attention
    kept, again = (count(partial(work, on), existing=[x]) for on in (False, True))
    assert again.flops - kept.flops == 2 * 2 * 4 * 512 * 512 * 16
    assert F.scaled_dot_product_attention is own
    with pytest.raises(ZeroDivisionError):
        count(lambda: 1 // 0)
    assert F.scaled_dot_product_attention is own


def test_numbers_that_code_reads() -> None:
    seen: list[object] = []

    def work() -> None:
        x = torch.empty(3, device=META)
        seen.extend([float(x.sum()), bool(torch.isfinite(x).all()), int(x.argmax()), float(torch.tensor(0.5))])

    count(work)
    assert seen == [1.0, True, 1, 0.5]


def test_draws_spread_evenly() -> None:
    generator = torch.Generator()
    seen: list[tuple[int, float]] = []

    def work() -> None:
        number = int(torch.randint(4, (), generator=generator))
        seen.append((number, float(torch.rand((), generator=generator, dtype=torch.float64))))

    for draw in range(1, 5):
        count(work, draw=draw)
    assert sorted(number for number, _ in seen) == [0, 1, 2, 3]
    assert [point for _, point in seen] == pytest.approx([1 / 3, 2 / 3, 1 / 9, 4 / 9])
    points = [next(quantiles(draw)) for draw in range(1, 8)]
    assert points == [0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]
