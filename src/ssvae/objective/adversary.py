"""The adversary: a critic with its own optimiser, schedule and state, and what the generator asks of it.

Hinge losses and adaptive weight after the official SSVAE code (loss_factory.py, patchgan.py).

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video (B,3,T,H,W), float, [-1, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssvae.objective.weighting import Weight, gradient_ratio

VERSION = 1
Logits = tuple[Tensor, ...]


class Adversary:
    """One player of two, whole: network, Adam at a constant rate, first step, state.

    critic: a module video -> tuple of logits, one entry a critic; losses are averaged over them. start_step: the first
    update, counted from 1, in which it plays (official: 25,001). weight: of the generator's loss; ``grad_ratio`` is
    taken at the decoder's last layer (:meth:`adaptive_weight`) and clamped to [0, largest] (official: 1, 1e4).

    By default one forward pass of the generator serves both players: ``backward`` takes the reconstruction that the
    generator's step has just made. With ``alternate``, the official order, the training loop gives ``backward`` the
    reconstruction of a batch of its own, made without gradients; before ``start_step`` the official code runs that
    pass for nothing, and this one leaves it out.

    Gradients accumulate in ``backward``; ``step`` is called once all ranks have agreed that everything is finite.
    """

    def __init__(
        self,
        critic: nn.Module,
        *,
        start_step: int,
        lr: float,
        betas: tuple[float, float],
        weight: Weight,
        largest: float = 1e4,
        alternate: bool = False,
    ) -> None:
        if start_step < 1:
            raise ValueError(f"critic start_step must be at least 1, the first update, got {start_step}")
        self.critic = critic
        self.start_step = start_step
        self.weight = weight
        self.largest = largest
        self.alternate = alternate
        self._optimizer = torch.optim.Adam(critic.parameters(), lr=lr, betas=betas)

    def active(self, step: int) -> bool:
        """Does it play in update ``step``, counted from 1?"""
        return step >= self.start_step

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        """Minus the mean logit, averaged over the critics: scalar with gradient to ``reconstruction`` alone."""
        with self._frozen():
            return _mean(self.critic(reconstruction), lambda logits: -logits.mean())

    def adaptive_weight(self, at_reference: Tensor, at_generator: Tensor) -> Tensor:
        """Weight of the generator's loss, detached, from the gradients of likelihood and loss at the last layer.

        ``grad_ratio``: value·‖∇ nll‖ / (‖∇ loss‖ + 1e-4), clamped to [0, largest]; ``fixed``: value.
        """
        if self.weight.policy == "fixed":
            return torch.tensor(self.weight.value, device=at_generator.device)
        return self.weight.value * gradient_ratio(at_reference, at_generator).clamp(max=self.largest)

    def backward(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Gradients of the hinge loss 0.5·(relu(1 - D(real)) + relu(1 + D(fake))), averaged over the critics.

        real, fake (B,3,T,H,W); fake is detached here. Returns detached scalars: ``critic`` (the loss), the mean logits
        ``critic/real`` and ``critic/fake``.
        """
        of_real, of_fake = self.critic(real.detach()), self.critic(fake.detach())
        loss = 0.5 * (
            _mean(of_real, lambda logits: F.relu(1.0 - logits).mean())
            + _mean(of_fake, lambda logits: F.relu(1.0 + logits).mean())
        )
        loss.backward()
        return {
            "critic": loss.detach(),
            "critic/real": _mean(of_real, torch.mean).detach(),
            "critic/fake": _mean(of_fake, torch.mean).detach(),
        }

    def gradient_norm(self) -> Tensor:
        """2-norm of all accumulated gradients, detached: a finite loss can have gradients that are not, and what is not
        finite must stop :meth:`step`. Take it once the ranks have averaged theirs."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).detach()

    def step(self) -> None:
        """Apply the accumulated gradients."""
        self._optimizer.step()

    def zero_grad(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.critic.parameters()

    def to(self, device: torch.device | str) -> Adversary:
        """Move the critic; call it before the first step or the loading of a state."""
        self.critic.to(device)
        return self

    def train(self) -> Adversary:
        self.critic.train()
        return self

    def eval(self) -> Adversary:
        self.critic.eval()
        return self

    def state_dict(self) -> dict[str, Any]:
        """Weights (with the vectors of the spectral norms) and optimiser."""
        return {
            "critic": self.critic.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.critic.load_state_dict(state["critic"])
        self._optimizer.load_state_dict(state["optimizer"])

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Within it nothing accumulates in the critic, though gradients pass through it."""
        trained = [parameter for parameter in self.critic.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


def _mean(of_critics: Logits, measure: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([measure(logits) for logits in of_critics]).mean()
