"""Prediction over cells: planted relations are found, shuffled ones not, and few cells conclude nothing."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from probed_cells import make_probed

from ssvae.report.collect import collect
from ssvae.report.figures import save_figure
from ssvae.report.predict import Prediction, predict, statistics
from ssvae.report.predict_figure import predict_figure
from ssvae.report.predict_text import predict_csv, predict_markdown, strongest


def make_world(root: Path, vaes: int, *, seeds: int = 1, channels: tuple[int, ...] = (48,), noise: float = 0.0) -> None:
    """``good`` falls as probe_fd rises and ``bad`` is drawn by chance; FD also hangs on the channel count."""
    rng = np.random.default_rng(0)
    for count in channels:
        for vae in range(vaes):
            for seed in range(seeds):
                value = vae + 0.1 * seed + noise * rng.normal()
                measured = {"good": -value, "bad": rng.normal(), "same": 1.0, "width": float(count)}
                scored = {"probe_fd": value + count, "probe_reward": -value, "probe_fd_gaussian": value}
                make_probed(root, f"r{vae}", count, seed=seed, measured=measured, scored=scored)


def find(prediction: Prediction, statistic: str, score: str = "probe_fd"):  # type: ignore[no-untyped-def]  # a test's
    return next(one for one in prediction.of(score) if one.statistic == statistic)


def test_a_planted_relation_is_found_with_its_sign(tmp_path: Path) -> None:
    make_world(tmp_path, 10)
    found = predict(collect(tmp_path, "grid"))
    assert found.scores == ("probe_fd", "probe_reward")
    good = find(found, "good")
    assert (good.spearman.value, good.kendall, good.verdict) == (-1.0, -1.0, "higher: better")
    # The same values against a score of which more is better.
    assert (find(found, "good", "probe_reward").spearman.value, find(found, "good", "probe_reward").sign) == (
        1.0,
        "higher: better",
    )
    assert find(found, "probe_fd_gaussian").verdict == "higher: worse"
    assert find(found, "bad").verdict.startswith("no conclusion")
    assert found.left_out == {"same": "the same in all cells", "width": "the same in all cells"}


def test_one_number_under_two_names_counts_once(tmp_path: Path) -> None:
    for vae in range(8):
        measured = {"a": float(vae), "b": vae * (1 + 1e-12), "c": vae + (0.5 if vae == 3 else 0.0)}
        make_probed(tmp_path, f"r{vae}", measured=measured, scored={"probe_fd": float(vae)})
    found = predict(collect(tmp_path, "grid"))
    assert found.left_out == {"b": "equal to a in every cell"}
    assert [one.statistic for one in found.of("probe_fd")] == ["a", "c"]


def test_shuffled_scores_conclude_nothing(tmp_path: Path) -> None:
    """20 unrelated statistics over 12 VAEs: by chance alone one has p < 0.05, but none survives."""
    rng = np.random.default_rng(1)
    for vae in range(12):
        measured = {f"s{k}": float(rng.normal()) for k in range(20)}
        make_probed(tmp_path, f"r{vae}", measured=measured, scored={"probe_fd": float(rng.normal())})
    found = predict(collect(tmp_path, "grid")).of("probe_fd")
    assert len(found) == 20
    assert min(one.spearman.p_value for one in found) < 0.05
    assert all(one.verdict.startswith("no conclusion") for one in found)


def test_adjusted_p_is_holms_over_the_statistics_of_one_score(tmp_path: Path) -> None:
    make_world(tmp_path, 8)
    found = predict(collect(tmp_path, "grid")).of("probe_fd")
    assert [one.statistic for one in found] == ["good", "probe_fd_gaussian", "bad"]
    assert found[0].p_adjusted == pytest.approx(3 * 2 / math.factorial(8))
    assert found[2].p_adjusted == pytest.approx(found[2].spearman.p_value)


@pytest.mark.parametrize(("vaes", "verdict"), [(5, "no conclusion: 5 VAEs, 8 needed"), (8, "higher: better")])
def test_few_vaes_conclude_nothing(tmp_path: Path, vaes: int, verdict: str) -> None:
    make_world(tmp_path, vaes)
    assert find(predict(collect(tmp_path, "grid")), "good").verdict == verdict


def test_seeds_are_no_more_vaes(tmp_path: Path) -> None:
    make_world(tmp_path, 4, seeds=3)
    with pytest.raises(ValueError, match=r"4 distinct VAEs with probe_fd .* finish 1 more setting .* 8 are needed"):
        predict(collect(tmp_path, "grid"))
    make_world(tmp_path, 5, seeds=3)
    good = find(predict(collect(tmp_path, "grid")), "good")
    assert (good.spearman.cells, good.spearman.clusters) == (15, 5)


def test_what_only_the_channels_do_is_not_concluded(tmp_path: Path) -> None:
    """``good`` is unrelated to FD within a channel count; over both, channels move statistic and score together."""
    rng = np.random.default_rng(3)
    for channels in (16, 128):
        for vae in range(6):
            measured = {"confounded": channels + float(rng.normal())}
            scored = {"probe_fd": 10.0 * channels + float(rng.normal())}
            make_probed(tmp_path, f"r{vae}", channels, measured=measured, scored=scored)
    one = find(predict(collect(tmp_path, "grid")), "confounded")
    assert one.spearman.value > 0.6 and one.p_adjusted < 0.05
    assert one.spearman.interval is not None and one.spearman.interval[0] > 0
    assert one.verdict == "no conclusion: not at equal channels"


def test_a_relation_at_equal_channels_is_concluded(tmp_path: Path) -> None:
    make_world(tmp_path, 6, channels=(16, 128))
    good = find(predict(collect(tmp_path, "grid")), "probe_fd_gaussian", "probe_reward")
    assert (good.strata, good.verdict) == (2, "higher: worse")
    assert good.within is not None and good.within.value == -1.0


def test_other_probe_settings_are_a_group_of_their_own(tmp_path: Path) -> None:
    for vae in range(8):
        config = f"probe:\n  steps: {100 if vae < 4 else 200}\nseed: {vae}\nparents: {{pretrain: p{vae}}}\n"
        make_probed(tmp_path, f"r{vae}", measured={"a": vae}, scored={"probe_fd": float(vae % 4)}, probe_config=config)
    rows = collect(tmp_path, "grid")
    assert len({row.probe for row in rows}) == 2
    one = find(predict(rows), "a")
    assert one.strata == 2 and one.within is not None and one.within.value == 1.0


def test_the_main_family_is_adjusted_over_itself_and_the_rest_over_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for vae in range(8):
        measured = {"viv": float(vae), "psnr_db": float(rng.normal()), "twin": float(vae)}
        measured |= {f"s{k}": float(rng.normal()) for k in range(6)} | {"late": -float(vae) + 0.1 * (vae == 7)}
        make_probed(tmp_path, f"r{vae}", measured=measured, scored={"probe_fd": float(vae)})
    rows = collect(tmp_path, "grid")
    found = predict(rows)
    assert [one.statistic for one in found.of("probe_fd", main=True)] == ["viv", "psnr_db"]
    smallest = 2 / math.factorial(8)
    assert find(found, "viv").p_adjusted == pytest.approx(2 * smallest)
    # Nine were tried: the twin is the same number again and does not count.
    assert find(found, "late").p_adjusted == pytest.approx(9 * smallest)
    assert found.left_out["twin"] == "equal to viv in every cell"
    other = predict(rows, main=["late", "s0"])
    assert find(other, "late").p_adjusted == pytest.approx(2 * smallest) and not find(other, "viv").main
    text = predict_markdown(found, ["grid"], "x")
    assert "of the main family (2 statistics): `viv`" in text and "Exploration adds `late`" in text


def test_scores_that_disagree_are_said_to(tmp_path: Path) -> None:
    for vae in range(6):
        scored = {"probe_fd": vae, "diffusion_loss": -vae, "probe_reward": -vae}
        make_probed(tmp_path, f"r{vae}", measured={"a": vae}, scored=scored)
    found = predict(collect(tmp_path, "grid"))
    assert found.agreement["probe_fd", "diffusion_loss"] == -1 and found.agreement["probe_fd", "probe_reward"] == 1
    assert "Beware: `diffusion_loss` (ρ −1.00) orders" in predict_markdown(found, ["grid"], "x")


def test_statistics_are_what_needs_no_diffusion(tmp_path: Path) -> None:
    measured = {"psnr_db": 1.0, "psnr_mean_colour_db": 2.0}
    scored = {"probe_fd": 3.0, "probe_fd_gaussian": 4.0, "probe_fd_reconstruction": 5.0, "probe_reward_wrong": 6.0}
    make_probed(tmp_path, "a", measured=measured, scored=scored)
    assert statistics(collect(tmp_path, "grid")) == ["psnr_db", "probe_fd_gaussian", "probe_fd_reconstruction"]


def test_scores_are_chosen_by_name(tmp_path: Path) -> None:
    make_world(tmp_path, 5)
    rows = collect(tmp_path, "grid")
    assert predict(rows, ["probe_reward", "probe_fd"]).scores == ("probe_reward", "probe_fd")
    with pytest.raises(ValueError, match="score 'fvd' is in no finished cell: choose from probe_fd, probe_reward"):
        predict(rows, ["fvd"])
    with pytest.raises(ValueError, match="'good' has no better side"):
        predict(rows, ["good"])
    with pytest.raises(ValueError, match="no finished cell has a score"):
        predict([])


def test_what_few_cells_have_is_left_out_by_name(tmp_path: Path) -> None:
    make_world(tmp_path, 6)
    for vae in range(3):
        make_probed(tmp_path, f"x{vae}", measured={"rare": vae}, scored={"probe_fd": vae, "diffusion_loss": vae})
    left_out = predict(collect(tmp_path, "grid")).left_out
    assert left_out["rare with probe_fd"] == "both in 3 distinct VAEs only, 5 needed"
    assert left_out["diffusion_loss"] == "score of 3 distinct VAEs only, 5 needed"


def test_a_constant_score_is_refused(tmp_path: Path) -> None:
    for vae in range(6):
        make_probed(tmp_path, f"r{vae}", measured={"a": vae}, scored={"probe_fd": 1.0})
    with pytest.raises(ValueError, match="probe_fd is the same in all cells"):
        predict(collect(tmp_path, "grid"))


def test_files_say_it_all_and_are_made_again_identically(tmp_path: Path) -> None:
    make_world(tmp_path, 5, seeds=2, channels=(16, 128), noise=0.2)
    found, again = (predict(collect(tmp_path, "grid")) for _ in range(2))
    text = predict_markdown(found, ["grid"], "python -m ssvae predict grid")
    assert text == predict_markdown(again, ["grid"], "python -m ssvae predict grid")
    assert "20 finished cells of 10 distinct VAEs; 2 groups" in text
    assert "- `same`: the same in all cells" in text and "- `good`: good/1" in text
    table = list(csv.DictReader(io.StringIO(predict_csv(found))))
    assert predict_csv(found) == predict_csv(again)
    assert len(table) == len(found.relations)
    strengths = [abs(float(line["spearman"])) for line in table if line["score"] == "probe_fd"]
    assert strengths == sorted(strengths, reverse=True)
    assert table[0]["vaes"] == "10" and table[0]["within_strata"] == "2"
    for name, prediction in (("a", found), ("b", again)):
        save_figure(predict_figure(prediction, "t"), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_figure_joins_seeds_and_names_the_verdict(tmp_path: Path) -> None:
    make_world(tmp_path, 8, seeds=2)
    found = predict(collect(tmp_path, "grid"))
    figure = predict_figure(found, "t")
    drawn = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel() for axes in drawn] == [one.statistic for one in strongest(found.of("probe_fd"), 6)]
    assert {len(np.asarray(line.get_xdata())) for line in drawn[0].lines} == {2}
    assert len(drawn[0].lines) == 8
    titles = {axes.get_xlabel(): axes.get_title(loc="left") for axes in drawn}
    assert "higher: better" in titles["good"] and "8 VAEs" in titles["good"]


def test_families_show_once(tmp_path: Path) -> None:
    names = ("ev_1", "ev_2", "ev_2_normalized", "psnr_noise_0.1_db", "psnr_noise_0.4_db")
    rng = np.random.default_rng(0)
    for vae in range(6):
        measured = {name: float(rng.normal()) for name in names}
        make_probed(tmp_path, f"r{vae}", measured=measured, scored={"probe_fd": float(vae)})
    relations = predict(collect(tmp_path, "grid")).of("probe_fd")
    shown = strongest(relations, 9)
    assert len(shown) == 2 and shown[0] is relations[0]
    assert len(strongest(relations, 1)) == 1
