"""The demos of chapter 4a: what they count, predict and say, and that they run."""

import json

import numpy as np
import pytest

from demos import mtp_effect, speculative, speculative_lab
from demos.speculative_lab import (
    Size,
    accepting,
    added,
    break_even,
    by_position,
    looping,
    predicted,
)
from minideepseek.autograd.blocks import set_threads
from minideepseek.errors import InputError
from minideepseek.model import speculative as decoding
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.speculative import SpeculativeStats, generate_speculative
from minideepseek.model.transformer import DeepSeekV3
from tests.layers.common import build, draw_ids
from tests.model.test_speculative import rigged

NANO = DeepSeekV3Config.preset("nano")


def test_counts_of_runs_are_added():
    one = SpeculativeStats([4, 4], [3, 1], 9, 5, 5, 0.5, 1.0)
    two = SpeculativeStats([2, 0], [0, 0], 3, 3, 4, 0.25, 2.0)
    assert added([one, two]) == SpeculativeStats([6, 4], [3, 1], 12, 8, 9, 0.75, 3.0)
    assert by_position(added([one, two])) == [0.5, 0.25] and by_position(two) == [0, 0]


def test_a_loop_is_a_piece_that_only_repeats():
    assert looping([9, 8, 7] + [1, 2, 3] * 16) and looping([5] * 60)
    assert looping([3] + list(range(24)) * 2)
    assert not looping([3] + list(range(25)) * 2) and not looping(list(range(60)))
    assert not looping([1, 2, 3] * 15 + [1, 2, 4])


def test_the_prediction_by_hand():
    times = {"main": [10.0, 12.0, 13.0], "draft": [1.0, 2.0, 4.0]}
    # one draft, accepted 3 of 4 times: 1.75 tokens in 12 + (¼ · 1 + ¾ · 2)
    assert predicted(times, [0.75]) == pytest.approx(1.75 * 10 / 13.75)
    # two: 0, 1, 2 accepted with ¼, ¼, ½; 2.25 tokens in 13 + (¼ + ½ + 2) + 1
    assert predicted(times, [0.75, 0.5]) == pytest.approx(2.25 * 10 / 16.75)


def test_prompts_are_pieces_of_the_whole_text():
    found = speculative_lab.prompts_of(np.arange(100, dtype=np.uint16), 4, 10)
    assert found[:, 0].tolist() == [0, 30, 60, 90] and (np.diff(found, axis=1) == 1).all()


def test_acceptance_by_chance_is_as_ordered_and_ends():
    model, verify = build(NANO), decoding.verify
    with accepting([0.8, 0.4]):
        _, stats = generate_speculative(model, draw_ids(NANO, 0, 1, 4), 60, draft_tokens=2)
        _, one = generate_speculative(model, draw_ids(NANO, 0, 1, 4), 60, draft_tokens=1)
    assert decoding.verify is verify
    assert by_position(stats) == pytest.approx([0.8, 0.4], abs=0.2)
    assert by_position(one) == pytest.approx([0.8], abs=0.2)


def test_agreement_along_a_text():
    """Modules that are always right agree always; of others' laws the overlap is counted."""
    pieces = draw_ids(NANO, 3, 3, 12)
    right = speculative_lab.along(rigged(NANO, 0, 0.0, 0.0), pieces)
    assert right["agree"] == 1 and right["law"] > 0.999
    wrong = speculative_lab.along(build(NANO), pieces)
    assert wrong["agree"] < 0.3 and wrong["law"] < 0.6


def test_sizes_have_the_proportions_of_mini():
    mini = DeepSeekV3Config.preset("mini")
    assert Size(256, 3).config() == mini
    dense = Size(128, 4, dense=True).config()
    assert dense.num_moe_layers == 0 and dense.num_nextn_predict_layers == 1
    model = Size(64, 2).model()
    assert all(np.isfinite(p.data).all() and p.data.any() for p in model.parameters())


def test_a_text_is_shown_draft_by_draft():
    model = rigged(NANO, 1, 0.25, 0.25)
    html = speculative_lab.drafted_text(model, draw_ids(NANO, 1, 1, 4)[0] % 96, 40, 0.0)
    assert html.count('class="prompt"') == 1 and "var(--h3)" in html and 'class="miss"' in html


def row(temperature, drafts, new, share, tokens):
    return {
        "temperature": temperature, "drafts": drafts, "new": new, "rows": 8, "loops": 3,
        "acceptance": share, "tokens": tokens, "drafted": 100, "least": 0.5, "most": 0.9,
    }  # fmt: skip


def grown(*speedups):
    return [
        {"size": f"{i}", "MB": 1.0, "dense": i == len(speedups) - 1,
         "measured": {1: x, 2: x - 0.2}} for i, x in enumerate(speedups)
    ]  # fmt: skip


def test_sentences_say_so_where_a_target_is_missed():
    rows = [row(0.0, k, 12, 0.8, 1.0 + 0.8 * k) for k in (1, 2)]
    rows += [row(t, k, 99, 0.6, 1.0 + 0.5 * k) for t in (0.0, 0.6, 1.0) for k in (1, 2)]
    said = speculative.findings(
        rows, {"agree": 0.65, "law": 0.7}, [100.0, 90.0, 120.0], grown(0.9, 1.1, 1.3, 1.0)
    )
    assert said[0].count(": reached") == 3 and said[1].count(": NOT reached") == 3
    assert "3 of 8 greedy texts" in said[2] and "NOT reached" in said[3]
    assert "faster with 1, 2 drafts: 0.90 ×, 1.20 ×" in said[5]
    assert said[6].startswith("1 draft: they pay from 1 on")
    assert said[7].startswith("2 drafts: they pay from 2 on")


def test_break_even_is_the_size_from_which_on_all_are_faster():
    assert break_even(grown(1.2, 0.9, 1.1, 0.5), 1).startswith("they pay from 2 on")
    assert break_even(grown(1.2, 1.1, 0.9, 0.5), 1).startswith("they pay from no size on, up to 2")
    assert "dense" not in break_even(grown(1.2, 1.1), 1) and "1 1.10 ×" in break_even(
        grown(1.2, 1.1), 1
    )


def test_a_model_without_a_module_is_refused(tmp_path):
    config = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=0)
    DeepSeekV3(config, np.random.default_rng(0)).save_pretrained(tmp_path / "m")
    with pytest.raises(InputError, match="holds no byte model with an MTP module"):
        speculative.loaded(tmp_path / "m")


# ------------------------------------------------------------------------- with and without MTP


def test_verdicts_of_differences():
    assert "decides nothing (-0.0100)" in mtp_effect.verdict([-0.01])
    assert mtp_effect.verdict([-0.02, -0.021, -0.019]).startswith("better with it")
    assert mtp_effect.verdict([0.02, 0.021, 0.019]).startswith("WORSE with it")
    said = mtp_effect.verdict([-0.02, 0.01, 0.01])
    # mean 0, deviation √3/100, half an interval 4.303 · √3/100 / √3
    assert said.startswith("NOT distinguishable") and "-0.0430 to +0.0430" in said


def test_steps_that_the_modules_time_would_have_paid_for():
    seeds = [{"with": {"seconds": s}, "without": {"seconds": 10.0}} for s in (14.0, 15.0, 99.0)]
    assert mtp_effect.paid_for(mtp_effect.Scale(steps=200), seeds) == 300


@pytest.mark.slow
def test_arms_share_their_beginning_and_are_read_again(tmp_path):
    """The first losses of the main model are equal; a kept arm is not trained, another scale is."""
    with_, without = (
        mtp_effect.run_arm(tmp_path / f"{m}.json", mtp_effect.QUICK, 0, m, 2) for m in (1, 0)
    )
    assert with_["curve"][0] == without["curve"][0] and with_["curve"][1] != without["curve"][1]
    file = tmp_path / "1.json"
    kept = json.loads(file.read_text("utf-8")) | {"bits": 123.0}
    file.write_text(json.dumps(kept), "utf-8")
    assert mtp_effect.run_arm(file, mtp_effect.QUICK, 0, 1, 2)["bits"] == 123.0
    assert mtp_effect.run_arm(file, mtp_effect.QUICK, 0, 1, 3)["bits"] != 123.0


@pytest.mark.slow
def test_quick_runs(tmp_path, capsys):
    mtp_effect.main(["--quick", "--cores", "1", "--out", str(tmp_path / "a")])
    found = json.loads((tmp_path / "a" / "results.json").read_text("utf-8"))
    assert list(found["seeds"][0]) == ["with", "without", "as long"]
    assert (tmp_path / "a" / "mtp_effect.html").read_text("utf-8").count("<svg role") == 1
    speculative.main(["--quick", "--threads", "1", "--out", str(tmp_path / "b")])
    found = json.loads((tmp_path / "b" / "results.json").read_text("utf-8"))
    assert len(found["acceptance"]) == 8 and len(found["sizes"]) == 2 and len(found["speed"]) == 3
    assert all(r["same"] == r["rows"] for r in found["acceptance"] if r["temperature"] == 0)
    page = (tmp_path / "b" / "speculative.html").read_text("utf-8")
    assert page.count("<pre>") == 2 and page.count("<table>") == 3
    model = str(tmp_path / "b" / "model")
    speculative.main(["--quick", "--model", model, "--out", str(tmp_path / "c")])
    again = json.loads((tmp_path / "c" / "results.json").read_text("utf-8"))
    assert [r["acceptance"] for r in again["acceptance"]] == [
        r["acceptance"] for r in found["acceptance"]
    ]
    set_threads(1)
    assert "reached" in capsys.readouterr().out
