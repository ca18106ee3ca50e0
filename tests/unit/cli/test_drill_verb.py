"""The verb judges its command line before anything is run, and leaves folders of others alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssvae.cli import drill
from ssvae.cli.main import main
from ssvae.config.compose import resolve


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--signals", "KILL,HUP"], "'HUP' is none of KILL, TERM, USR2"),
        (["--kills", "0"], "this cell has places for 1 to"),
        (["reg=none,lcr"], "makes 2 cells, a drill has one"),
        (["stage=pretrain"], "a drill runs all stages"),
        (["track=none"], "leave track=mlflow"),
        (["track.uri=http://localhost:5000"], "leave it null"),
        (["runtime.log_every=10"], "set it to 1"),
        (["launch.detach=true"], "a drill has to follow its jobs"),
        (["vae=wan22"], ""),
        (["reg=lcrr"], "lcrr"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drill", "--out", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "disturbed").mkdir()
    (tmp_path / "disturbed" / "precious").touch()
    assert main(["drill", "--out", str(tmp_path)]) == 2
    assert "is no drill's (it holds disturbed)" in capsys.readouterr().err
    assert (tmp_path / "disturbed" / "precious").exists()
    assert main(["drill", "--out", str(tmp_path / "disturbed" / "precious")]) == 2


def test_the_drills_cell_has_every_stage_and_every_kind_of_state() -> None:
    (cell,) = resolve(("exp=drill",))
    steps = drill.steps_of(cell.cfg)
    assert list(steps) == [
        *("base", "pretrain", "decoder_finetune", "measure"),
        *("latents_base", "dit_base", "latents", "dit", "probe"),
    ]
    assert [stage for stage, updates in steps.items() if updates is None] == [
        *("measure", "latents_base", "latents", "probe")
    ]
    stage = cell.cfg.stages.pretrain
    assert stage.objective.critic is not None and stage.objective.critic.start_step < stage.train.steps
    assert stage.train.ema_decay is not None
    assert stage.reg.terms.lmr is not None
    assert all(updates > 2 * cell.cfg.runtime.checkpoint_every for updates in steps.values() if updates is not None)
