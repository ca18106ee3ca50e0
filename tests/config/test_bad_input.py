"""Every kind of mistake: all of them at once, with key, value and remedy, exit code 2, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ssvae.cli.run import main
from ssvae.config.compose import PROJECT, resolve
from ssvae.config.problem import InputError, Problem

BAD = [
    # (overrides, the key that must be named, what else the line must say)
    (("trian.steps=3",), "trian.steps", "did you mean train.steps"),
    (("channel=48",), "channel", "did you mean channels"),
    (("vae.base_chanels=8",), "vae.base_chanels", "did you mean vae.base_channels"),
    (("reg=lcrr",), "reg", "did you mean lcr"),
    (("channels=49",), "channels", "one of 128, 16, 48"),
    (("resolution=3.5",), "resolution", "one of 256, 32, 512, 64"),
    (("channels=null",), "channels", "one of"),
    (("launch=slurmm",), "launch", "one of"),
    (("train.steps=many",), "train.steps", "Integer"),
    (("seed=1.5",), "seed", "Integer"),
    (("train.optimizer=sgd",), "train.optimizer", "Invalid value"),
    (("train.lr=[1,2]",), "train.lr", "Float"),
    (("train.lr=nan",), "train.lr", "finite"),
    (("strength.lcr=inf",), "strength.lcr", "finite"),
    (("data=webdataset",), "data.path", "data.path=FOLDER"),
    (("data=webdataset", "data.path=/no/such/folder"), "data.path", "no such folder"),
    (("data=webdataset", "data.path=https://host/clips"), "data.path", "local folder"),
    (("data.image_path=/no/such/folder",), "data.image_path", "no such folder"),
    (("data.path=/tmp",), "data.path", "add data=webdataset"),
    (("data.synthetic=null",), "data.synthetic", "conf/data/synthetic.yaml"),
    (("data.synthetic.frames=8",), "data.synthetic.frames", "do not fit"),
    (("data.heldout_share=0",), "data.heldout_share", "(0, 1)"),
    (("data.image_weight=0", "data.video_weight=0"), "data.video_weight", "both be 0"),
    (("resolution.frames=10",), "resolution=32 with vae=tiny", "9 and 13"),
    (("resolution.height=30",), "resolution=32 with vae=tiny", "28 and 32"),
    (("reg=lcr", "reg.terms.lcr.window=[2,3,2]"), "reg.terms.lcr.window", "divisor"),
    (("score.window=[2,2]",), "score.window", "three positive numbers"),
    (("score.block=[2,5,4]",), "score.block", "divisor"),
    (("score.downsample=7",), "score.downsample", "does not divide 32x32"),
    (("score.noise=[0.1,0.1]",), "score.noise", "different"),
    (("score.weights=ema",), "score.weights", "train.ema_decay"),
    (("reg=lmr", "resolution.lmr.block=[4,1,1]"), "reg.terms.lmr.block", "larger than the latent grid"),
    (("reg=lmr", "resolution.lmr.probabilities=[0.5,0.5]"), "reg.terms.lmr.probabilities", "4 entries"),
    (("reg=lmr", "resolution.lmr.probabilities=[0.7,0.1,0.1,0.2]"), "reg.terms.lmr.probabilities", "sum to 1"),
    (("reg=lmr", "reg.terms.lmr.ratios=[0,0.25,0.5,1]"), "reg.terms.lmr.ratios", "[0, 1)"),
    (("reg=none", "reg.terms.lcr.threshold=0.5"), "reg.terms.lcr.threshold", "reg.terms.lcr is null"),
    (("reg.terms.kl.weight.policy=grad_ratio",), "reg.terms.kl.weight.policy", "fixed"),
    (("reg.terms.kl.stages=[pretrain,decoder_finetune]",), "reg.terms.kl.stages", "decoder_finetune freezes"),
    (("reg=noise",), "reg.terms.noise.stages", "exp=cpu_finetune"),
    (("reg=vf", "reg.terms.vf.model=null"), "reg.terms.vf.model", "facebook/dinov2-large"),
    (("reg=vf", "reg.terms.vf.model=/x", "reg.terms.vf.size=225"), "reg.terms.vf.size", "multiple of 14"),
    (("reg=cov", "reg.terms.cov.modes=48"), "reg.terms.cov.modes", "[1, 47]"),
    (("reg=predictive", "reg.terms.predictive.max_drop=1.5"), "reg.terms.predictive.max_drop", "[0, 1]"),
    (("reg=predictive", "reg.terms.predictive.max_drop=0.3"), "reg.terms.predictive.max_drop", "drops nothing"),
    (
        ("reg=predictive", "reg.terms.predictive.motion.policy=grad_ratio"),
        "reg.terms.predictive.motion.policy",
        "fixed",
    ),
    (("reg=predictive", "+reg/term@reg.terms.lcr=lcr"), "reg.terms.lcr.window", "predictive leaves"),
    (("reg=eq", "reg.terms.eq.scales=[8]"), "reg.terms.eq.scales", "in 32nds"),
    (("reg=eq", "reg.terms.eq.rotations=[4]"), "reg.terms.eq.rotations", "quarter turns"),
    (("reg=eq", "+reg/term@reg.terms.lcr=lcr"), "reg.terms.eq.downscaled", "set it to 0"),
    (("reg=eq", "objective=l1_gan"), "reg.terms.eq.scales", "the objective needs 12"),
    (("reg=se", "reg.terms.se.factors=[1]"), "reg.terms.se.factors", "at least 2"),
    (("reg=se", "reg.terms.se.factors=[9]"), "reg.terms.se.factors", "none of them leaves"),
    (("objective=l1_gan", "objective.critic.levels=4"), "objective.critic.levels", "48 pixels"),
    (("objective=l1_gan", "objective.critic.temporal_levels=3"), "objective.critic.temporal_levels", "cannot exceed"),
    (("objective=l1_gan", "objective.critic.start_step=0"), "objective.critic.start_step", "at least 1"),
    (("objective=l1_lpips_gan",), "objective.lpips.vgg", "set it"),
    (("stage=decoder_finetune",), "stage", "exp=paper_512p"),
    (("score.trained=decoder_finetune",), "score.trained", "exp=cpu_finetune"),
    (("exp=cpu_finetune", "score.weights=ema"), "score.weights", "stages.decoder_finetune.train.ema_decay"),
    (("stages.pretrain.init=/no/such.ckpt", "stages.base=null"), "stages.pretrain.init", "no such file"),
    (("stages.pretrain.init=x",), "stages.pretrain.init", "stages.base.init"),
    (("exp=cpu_finetune", "stages.decoder_finetune.init=x"), "stages.decoder_finetune.init", "pretrain"),
    (("vae.temporal_levels=[true]",), "vae.temporal_levels", "one entry a down-sampling"),
    (("vae.multipliers=[2,4,5]",), "vae.multipliers", "whole fraction"),
    (("probe.dit.width=130",), "probe.dit.width", "divisible by heads = 4"),
    (("probe.dit.patch=[2,2,2]",), "probe.dit.patch", "does not divide"),
    (("probe.condition_dropout=1.5",), "probe.condition_dropout", "[0, 1]"),
    (("train.betas=[0.9]",), "train.betas", "two numbers"),
    (("train.ema_decay=1",), "train.ema_decay", "(0, 1)"),
    (("train.grad_clip=0",), "train.grad_clip", "above 0"),
    (("train.steps=-4",), "train.steps", "at least 1"),
    (("train.batch=0",), "train.batch", "at least 1"),
    (("train.lr=-1",), "train.lr", "above 0"),
    (("stages.base.train.steps=0",), "stages.base.train.steps", "at least 1"),
    (("probe.train.batch=-1",), "probe.train.batch", "at least 1"),
    (("data.synthetic.clips=-1",), "data.synthetic.clips", "at least 8"),
    (("latents.windows=0",), "latents.windows", "at least 1"),
    (("runtime.workers=-1",), "runtime.workers", "at least 0"),
    (("seed=-1",), "seed", "at least 0"),
    (("objective.lpips.vgg=/no/vgg.pth",), "objective.lpips.vgg", "no such file"),
    (("sweep.name=a/b",), "sweep.name", "plain folder name"),
    (("+train.lrr=1",), "train.lrr", "the type has"),
    (("+stray=1",), "stray", "the type has"),
    (("reg=[none",), "reg", "cannot be parsed"),
    (("channels=48,",), "channels", "cannot be parsed"),
    (("reg",), "reg", "KEY=VALUE"),
    (("~reg",), "~reg", "nothing can be deleted"),
    (("~track",), "~track", "nothing can be deleted"),
    (("stages.measure.resolution.height=64",), "stages.measure.resolution.height", "set resolution.height"),
    (("hydra.mode=RUN",), "hydra.mode", "leave it out"),
    (("hydra/launcher=joblib",), "hydra/launcher", "submitit_local and submitit_slurm"),
    (("hydra/launcher=submitit_slurm", "hydra.launcher.partitionn=p"), "hydra.launcher.partitionn", "unknown key"),
    (("launch.parallel=0",), "launch.parallel", "at least 1"),
    (("launch.retries=-1",), "launch.retries", "at least 0"),
    (("launch=slurm", "launch.parallel=2"), "launch.parallel", "array_parallelism"),
    (("launch=slurm", "launch.jobs.probe.nodes=0"), "launch.jobs.probe.nodes", "at least 1"),
    (
        ("launch=slurm", "launch.jobs.measure.timeout_min=5"),
        "launch.jobs.measure.signal_delay_s",
        "before the job begins",
    ),
    (("launch=slurm", "launch.jobs.probe.gpus_per_node=4"), "launch.jobs.probe.tasks_per_node", "one rank has one GPU"),
    (
        ("launch=slurm", "+launch.jobs.probe.additional_parameters.dependency=x"),
        "launch.jobs.probe.additional_parameters",
        "leave it out",
    ),
    (
        ("launch=slurm", "+launch.jobs.probe.additional_parameters.time=x"),
        "launch.jobs.probe.additional_parameters",
        "setting of its own",
    ),
    (("launch=local,slurm",), "launch", "separate sweeps"),
    (("hydra/sweeper=basic2",), "hydra/sweeper", "leave it out"),
    (("hydra.nonsense=1",), "hydra.nonsense", "unknown key"),
]


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def problems_of(*overrides: str) -> list[tuple[Problem, list[str]]]:
    with pytest.raises(InputError) as caught:
        resolve(overrides)
    return caught.value.problems


@pytest.mark.parametrize(("overrides", "key", "words"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_a_mistake_is_named_with_key_value_and_remedy(overrides: tuple[str, ...], key: str, words: str) -> None:
    found = [problem for problem, _ in problems_of(*overrides)]
    about = [problem for problem in found if problem.key == key]
    assert about, found
    assert any(words in problem.remedy for problem in about), about
    assert len(found) == 1, f"one mistake, one line: {found}"


def test_empty_data_folder(tmp_path: Path) -> None:
    ((problem, _),) = problems_of("data=webdataset", f"data.path={tmp_path}")
    assert problem.key == "data.path"
    assert str(tmp_path) in problem.value
    assert "no .tar" in problem.remedy


def test_all_problems_of_all_cells_come_at_once() -> None:
    found = problems_of(
        "reg=none,lcr,lmr", "channels=48,49", "train.steps=-1", "trian.lr=1", "score.window=[2,3,2]", "reg2", "+seed=x"
    )
    where = {problem.key: len(cells) for problem, cells in found}
    assert where["channels"] == 3
    assert where["train.steps"] == where["trian.lr"] == where["score.window"] == where["reg2"] == 6


def test_a_combination_that_only_one_cell_has_names_that_cell() -> None:
    ((problem, cells),) = problems_of("reg=none,lmr", "resolution.lmr.block=[1,9,1]")
    assert (problem.key, cells) == ("reg.terms.lmr.block", ["reg=lmr"])
    ((problem, cells),) = problems_of("vae=tiny,ssvae", "resolution=256", "score=paper", "probe.dit.patch=[5,32,32]")
    assert (problem.key, cells) == ("probe.dit.patch", ["vae=ssvae"])


def test_what_stages_share_is_named_once_under_its_own_key() -> None:
    ((problem, _),) = problems_of("resolution.fps=-8")
    assert problem.key == "resolution.fps"
    ((problem, _),) = problems_of("stages.base.train.lr=nan")
    assert problem.key == "stages.base.train.lr"


@pytest.mark.parametrize(
    ("argv", "lines"),
    [
        (["-m", "reg=none,lcx", "channels=48,128", "train.steps=abc"], ["reg = lcx", "train.steps = abc"]),
        (["resolution.frames=10", "-m", "+stray=1"], ["9 and 13", "stray = 1"]),
        (["reg=[none", "data=webdataset"], ["reg = [none", "data.path = null"]),
    ],
)
def test_main_prints_problems_and_returns_two_without_a_trace_of_itself(
    argv: list[str],
    lines: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    assert main(argv) == 2
    shown = capfd.readouterr()
    assert all(line in shown.err for line in lines), shown.err
    assert "Traceback" not in shown.err
    assert f"{len(lines)} problem" in shown.err
    assert shown.out == ""
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "reg=none,lcr,lmr,lcr_lmr", "channels=48,128", "score.window=[2,3,2]"],
        ["reg=lcr", "trian.steps=1", "data=webdataset"],
        ["reg=[none"],
    ],
    ids=["grid", "one cell", "not parsed"],
)
def test_a_bad_command_ends_with_two_and_leaves_no_file(argv: list[str], tmp_path: Path) -> None:
    """The real command, started in an empty folder. It must not load torch: that is what keeps the answer quick."""
    program = [
        "import runpy, sys",
        "sys.argv[0] = 'run.py'",
        f"try: runpy.run_path({str(PROJECT / 'run.py')!r}, run_name='__main__')",
        "except SystemExit as end: print('torch' in sys.modules, file=sys.stderr); sys.exit(end.code)",
    ]
    home = tmp_path / "home"
    home.mkdir()
    before = tree(PROJECT / "src") + tree(PROJECT / "conf")
    done = subprocess.run(
        [sys.executable, "-B", "-c", "\n".join(program), *argv],
        cwd=home,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "SSVAE_ROOT": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.rstrip().endswith("False"), "torch was imported before the command line was judged"
    assert tree(home) == []
    assert tree(PROJECT / "src") + tree(PROJECT / "conf") == before


def test_an_unknown_flag_is_an_error_not_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    assert main(["--no-such-flag", "reg=none"]) == 2
    assert [path for path in tree(tmp_path) if not path.startswith("runs/.cache") and path != "runs"] == []


@pytest.mark.parametrize("variable", ["RANK", "ACCELERATE_MIXED_PRECISION"])
def test_a_foreign_launcher_is_refused_with_the_reason(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    monkeypatch.setenv(variable, "0")
    assert main(["reg=none"]) == 2
    assert "python run.py" in capfd.readouterr().err
    assert tree(tmp_path) == []
