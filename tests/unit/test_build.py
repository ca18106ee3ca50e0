"""Config values become objects: what only shows when several are built in one process."""

from __future__ import annotations

from ssvae.build import build_accelerator, build_regularizers, build_vae
from ssvae.config.compose import resolve
from ssvae.config.reg import TrainedStage, terms_in
from ssvae.config.train import Precision


def test_stages_of_one_process_may_differ_in_precision() -> None:
    assert [build_accelerator(precision).mixed_precision for precision in (Precision.fp32, Precision.bf16)] == [
        "no",
        "bf16",
    ]


def test_terms_and_weights_follow_the_choice() -> None:
    found = {}
    for cell in resolve(("reg=none,lcr,lmr,lcr_lmr", "strength.lcr=0.3")):
        terms = terms_in(cell.cfg.reg.terms, TrainedStage.pretrain)
        regularizers, weights = build_regularizers(terms, build_vae(cell.cfg.vae), cell.cfg.resolution)
        found[cell.cfg.reg.name] = (list(regularizers), {name: (w.policy, w.value) for name, w in weights.items()})
    kl, lcr = ("fixed", 5e-4), ("grad_ratio", 0.3)
    assert found == {
        "none": (["kl"], {"kl": kl}),
        "lcr": (["kl", "lcr"], {"kl": kl, "lcr": lcr}),
        "lmr": (["kl", "lmr"], {"kl": kl}),
        "lcr_lmr": (["kl", "lcr", "lmr"], {"kl": kl, "lcr": lcr}),
    }
