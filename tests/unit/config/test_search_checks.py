"""What a search asks for is judged before anything is computed, each mistake with key, value and remedy."""

from __future__ import annotations

import pytest

from ssvae.config.compose import PROJECT, resolve
from ssvae.config.problem import InputError, Problem
from ssvae.config.search_checks import MOST_CORNERS, grids, search_problems
from ssvae.config.search_metrics import measured_metrics, probed_metrics

BASE = ("+sweep=reg_weights",)
SPACE = "search.space=[{{{}}}]"


def problems(*overrides: str) -> list[Problem]:
    return search_problems(resolve((*BASE, *overrides)), resolve)


BAD = [
    # (overrides, the key that must be named, what the line must say)
    (("search.n_trials=0",), "search.n_trials", "at least 1"),
    (("search.workers=0",), "search.workers", "at least 1"),
    (("search.seed=-1",), "search.seed", "at least 0"),
    (("search.failures=0",), "search.failures", "above 0"),
    (("search.prune.keep=1",), "search.prune.keep", "search.prune=null"),
    (("search.prune.warmup=0",), "search.prune.warmup", "at least 1"),
    (("search.objectives=[]",), "search.objectives", "needs a metric"),
    (
        ("search.objectives=[{metric:psnr,direction:maximize}]",),
        "search.objectives.metric",
        "did you mean psnr_db",
    ),
    (("search.objectives=[{metric:psnr_db,direction:minimize}]",), "search.objectives.direction", "maximize"),
    (("search.objectives=[{metric:probe_fd,direction:maximize}]",), "search.objectives.direction", "minimize"),
    (
        ("search.objectives=[{metric:viv,direction:minimize},{metric:viv,direction:maximize}]",),
        "search.objectives",
        "twice",
    ),
    (
        ("stage=measure", "search.prune=null", "search.objectives=[{metric:probe_fd,direction:minimize}]"),
        "search.objectives.metric",
        "stage=measure makes no such metric",
    ),
    (
        ("stage=measure", "search.objectives=[{metric:psnr_db,direction:maximize}]"),
        "search.prune",
        "no probe is run",
    ),
    (("search.prune.metric=probe_fd", "search.prune.direction=minimize"), "search.prune.metric", "psnr_db"),
    (("search.prune.metric=dct_high_shar",), "search.prune.metric", "did you mean dct_high_share"),
    (("search.prune.direction=minimize",), "search.prune.direction", "maximize"),
    (("search.space=[]",), "search.space", "low and high, or with choices"),
    ((SPACE.format("key:strength.lcr,low:1.0,high:0.1"),), "search.space strength.lcr", "low below high"),
    ((SPACE.format("key:strength.lcr,low:0.0,high:1.0,log:true"),), "search.space strength.lcr", "starts above 0"),
    ((SPACE.format("key:strength.lcr,low:0.0,high:1.0,step:2.0"),), "search.space strength.lcr", "fit into the range"),
    ((SPACE.format("key:strength.lcr,low:0.1"),), "search.space strength.lcr", "needs both"),
    ((SPACE.format("key:strength.lcr,low:0.1,high:1.0,choices:[1,2]"),), "search.space strength.lcr", "or choices"),
    ((SPACE.format("key:strength.lcr,choices:[0.1]"),), "search.space strength.lcr", "two different choices"),
    ((SPACE.format("key:strength.lcr,choices:[0.1,0.2,0.1]"),), "search.space strength.lcr", "twice"),
    ((SPACE.format("key:train.steps,low:1.5,high:4"),), "search.space train.steps", "whole number"),
    ((SPACE.format("key:reg.terms.lcr.window,low:1,high:4"),), "search.space reg.terms.lcr.window", "no number"),
    ((SPACE.format("key:vae,low:1,high:4"),), "search.space vae", "no number"),
    ((SPACE.format("key:strength.lccr,low:0.1,high:1.0"),), "strength.lccr", "did you mean strength.lcr"),
    ((SPACE.format("key:reg.terms.lcr.threshold,low:0.5,high:1.5"),), "reg.terms.lcr.threshold", "[-1, 1]"),
    ((SPACE.format("key:reg.terms.lcr.window,choices:[[2,2,2],[2,3,2]]"),), "reg.terms.lcr.window", "divisor"),
    ((SPACE.format("key:train.lr,low:-1.0,high:1.0"),), "train.lr", "above 0"),
    ((SPACE.format("key:strength.cov,low:0.1,high:1.0"),), "search.space", "changes nothing"),
    ((SPACE.format("key:score.clips,low:64,high:128"),), "search.space", "how trials are measured"),
    ((SPACE.format("key:probe.sample.steps,low:5,high:9"),), "search.space", "how trials are measured"),
    ((SPACE.format("key:score.window,choices:[[2,2,2],[1,2,2]]"),), "score.window", "measured differently"),
    ((SPACE.format("key:track.samples,low:1,high:2"),), "search.space", "changes no number"),
    ((SPACE.format("key:search.seed,low:1,high:2"),), "search.space", "changes no number"),
    (("strength.lcr=0.1",), "strength.lcr", "also searched"),
    (
        ("reg.terms.lmr.block=[1,2,2]", SPACE.format("key:reg.terms.lmr,choices:[{block:[1,1,1]},{block:[2,2,2]}]")),
        "reg.terms.lmr.block",
        "also searched",
    ),
    (("reg=lcr_lmr,lcr",), "reg", "starts from one cell"),
]


@pytest.mark.parametrize(("overrides", "key", "words"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_a_mistake_is_named_with_key_value_and_remedy(overrides: tuple[str, ...], key: str, words: str) -> None:
    found = problems(*overrides)
    about = [problem for problem in found if problem.key == key]
    assert about, found
    assert any(words in problem.remedy for problem in about), about
    assert {problem.key for problem in found} == {key}, found


def test_a_dimension_given_twice() -> None:
    twice = "{key:strength.lcr,low:0.1,high:1.0}"
    (problem,) = problems(f"search.space=[{twice},{twice}]")
    assert (problem.key, problem.value, problem.remedy) == ("search.space", "strength.lcr", "is there twice")


def test_a_pair_of_choices_that_do_not_fit_is_found() -> None:
    """Each of them is right beside the other's first value."""
    ratios = "{key:reg.terms.lmr.ratios,choices:[[0,0.25,0.5,0.75],[0,0.5]]}"
    (problem,) = problems(f"search.space=[{ratios},{{key:strength.lcr,low:0.1,high:1.0}}]")
    assert problem.key == "reg.terms.lmr.probabilities"
    assert "2 entries" in problem.remedy


GOOD = [
    ("search.prune=null",),
    ("stage=measure", "search.prune=null", "search.objectives=[{metric:viv,direction:maximize}]"),
    (SPACE.format("key:train.steps,low:100,high:200,step:50"),),
    (SPACE.format("key:score.weights,choices:[raw,ema]"), "train.ema_decay=0.9"),
    (SPACE.format("key:objective,choices:[l1,l1_gan]"), "search.prune.metric=viv", "search.prune.direction=minimize"),
    ("reg.terms.lmr.block=[1,2,2]", SPACE.format("key:reg.terms.lcr,choices:[{threshold:0.5},{threshold:0.7}]")),
    ("search.objectives=[{metric:psnr_token_masked_0.5_db,direction:maximize}]",),
    ("search.objectives=[{metric:diffusion_loss,direction:minimize},{metric:kl_per_dim,direction:minimize}]",),
]


@pytest.mark.parametrize("overrides", GOOD, ids=[" ".join(case) for case in GOOD])
def test_what_is_sound_is_taken(overrides: tuple[str, ...]) -> None:
    assert problems(*overrides) == []


SEARCHES = [path.stem for path in sorted((PROJECT / "sweeps").glob("*.yaml")) if "search:" in path.read_text()]


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_that_is_here_is_sound_at_all_its_corners(name: str) -> None:
    cells = resolve((f"+sweep={name}",))
    assert search_problems(cells, resolve) == []
    search = cells[0].cfg.search
    assert search is not None
    assert len(search.objectives) == 2, "reconstruction against diffusability"
    assert search.prune is not None


def test_the_three_searches_are_here() -> None:
    assert SEARCHES == ["lcr_window", "lmr_mask", "reg_weights"]


def test_every_end_and_choice_is_among_the_corners() -> None:
    for name in SEARCHES:
        (cell,) = resolve((f"+sweep={name}",))
        search = cell.cfg.search
        assert search is not None
        points = [point for grid in grids(search) for point in grid]
        assert len(points) <= 2 * MOST_CORNERS
        for place, parameter in enumerate(search.space):
            count = 2 if parameter.choices is None else len(parameter.choices)
            assert {point[place] for point in points} == set(range(count))


def test_a_search_is_no_part_of_what_is_computed() -> None:
    (with_search,) = resolve(("+sweep=reg_weights",))
    (without,) = resolve(("+sweep=reg_weights", "search=null"))
    assert without.cfg.search is None
    assert repr(with_search.cfg.stages) == repr(without.cfg.stages)


def test_types_are_checked_like_those_of_any_key() -> None:
    for override, key in (
        ("search.sampler=tpee", "search.sampler"),
        ("search.storage=redis", "search.storage"),
        ("search.n_trial=3", "search.n_trial"),
        ("search.objectives=[{metric:psnr_db,direction:up}]", "search.objectives"),
    ):
        with pytest.raises(InputError) as caught:
            resolve((*BASE, override))
        assert [problem.key for problem, _ in caught.value.problems] == [key]


def test_the_names_of_metrics_follow_the_config() -> None:
    (cell,) = resolve(("reg=lmr", "score.noise=[0.15]", "score.chop=[]", "score.downsample=4"))
    names = measured_metrics(cell.cfg)
    assert "psnr_noise_0.15_db" in names and "psnr_noise_0.1_db" not in names
    assert "psnr_down4_db" in names and not any("chop" in name for name in names)
    assert "psnr_token_masked_0.5_db" in names
    assert not {"fdd", "fvd", "reward_mean", "lpips_vgg"} & {*names, *probed_metrics(cell.cfg)}
