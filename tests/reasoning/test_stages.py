"""A stage goes on, is only read when complete, and is never continued from other weights."""

import json
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from minideepseek.autograd.backend import to_host
from minideepseek.errors import CheckpointError
from minideepseek.model.transformer import DeepSeekV3
from minideepseek.reasoning import stages
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.grpo.trainer import GRPOTrainer
from minideepseek.reasoning.r1.sft import SFTTrainer
from minideepseek.reasoning.r1.sources import Demonstrations
from minideepseek.reasoning.stages import (
    Interrupted,
    Stages,
    pretrainer,
    pretraining_text,
    weights_hash,
    without_mtp,
)
from minideepseek.training.language import stop_on_interrupt
from minideepseek.training.rundir import list_checkpoints, read_metrics
from tests.reasoning import small
from tests.reasoning.grpo.tiny import LUCK, same, weights

TASK, SHOWN = small.Small(), {"loss": "loss"}


@pytest.fixture(autouse=True)
def _few_held_out(monkeypatch):
    monkeypatch.setattr(stages, "HELD_OUT_DOCUMENTS", 20)


def fresh(name, seed=0):
    """A trainer of a kind of stage, always the same."""
    if name == "pretrain":
        return pretrainer(TASK, small.RECIPE, np.random.default_rng([seed, 6]), "cpu")
    if name == "sft":
        source = Demonstrations(TASK, 8, np.random.default_rng(6))
        return SFTTrainer(small.model(seed), source, small.SFT)
    rng = np.random.default_rng(5)
    return GRPOTrainer(small.model(seed), TASK, small.GRPO, (LUCK,), rng=rng)


# --------------------------------------------------------------------------------------- the stages


def test_a_stage_is_trained_recorded_and_then_only_read(tmp_path, monkeypatch):
    said, seen = [], []
    stage = Stages(tmp_path, TASK, say=said.append)
    trainer = fresh("sft")
    rows = stage.run("sft", trainer, SHOWN, seen.append)
    assert seen == [1, 2, 3, 4, 5] == [row["step"] for row in rows]
    assert rows == read_metrics(tmp_path / "sft/metrics.jsonl")
    kept = [path.name for path in list_checkpoints(tmp_path / "sft")]
    assert kept == ["step-00000004", "step-00000005"]
    again = fresh("sft")
    monkeypatch.setattr(SFTTrainer, "step", lambda self: pytest.fail("it was complete"))
    assert said == []
    assert stage.run("sft", again, SHOWN, pytest.fail) == rows and said == ["sft: complete"]
    assert same(weights(again.model), weights(trainer.model))


@pytest.mark.parametrize("name", ["pretrain", "sft", "grpo"])
def test_a_stage_goes_on_and_the_hook_hears_of_new_steps_only(tmp_path, name):
    whole = fresh(name)
    expected = Stages(tmp_path / "whole", TASK).run(name, whole, {})
    seen, calls = [], []
    stopped = Stages(tmp_path, TASK, stopped=lambda: len(calls.append(1) or calls) in (1, 3))
    for _ in range(2):
        with pytest.raises(Interrupted):
            stopped.run(name, fresh(name), {}, seen.append)
    trainer = fresh(name)
    stopped.run(name, trainer, {}, seen.append)
    assert seen == list(range(1, len(expected) + 1))
    assert small.steps(tmp_path / name) == small.steps(tmp_path / "whole" / name)
    assert same(weights(trainer.model), weights(whole.model))
    assert not same(weights(trainer.model), weights(fresh(name).model))


@pytest.mark.parametrize("name", ["pretrain", "sft", "grpo"])
def test_a_stage_is_never_continued_from_other_weights(tmp_path, name):
    trainer = fresh(name)
    with pytest.raises(Interrupted):
        Stages(tmp_path, TASK, stopped=lambda: True).run(name, trainer, {})
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    other = fresh(name, seed=1)
    was, now = (weights_hash(t.model)[:12] for t in (fresh(name), other))
    with pytest.raises(CheckpointError) as caught:
        Stages(tmp_path, TASK).run(name, other, {})
    assert str(caught.value) == (
        f"{tmp_path / name / 'checkpoints/step-00000001'} began from other weights (hash {was}…, "
        f"here {now}…); go on with those, or begin in another directory"
    )
    assert other.done == 0
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_what_differs_from_before_is_said(tmp_path, monkeypatch):
    said = []
    with pytest.raises(Interrupted):
        Stages(tmp_path, TASK, said.append, lambda: True).run("sft", fresh("sft"), {})
    monkeypatch.setattr("minideepseek.training.rundir.get_threads", lambda: 7)
    Stages(tmp_path, TASK, said.append).run("sft", fresh("sft"), {})
    assert said == [
        "threads was 1 when this checkpoint was written and is 7 now: the losses may differ in "
        "their last bits",
        "sft: going on after step 1 of 5",
    ]


# --------------------------------------------------------------------------------------- remembered


def test_values_are_measured_once_and_kept_in_their_order(tmp_path):
    stage, calls = Stages(tmp_path, TASK), []

    def measure():
        calls.append(1)
        return {"τ": len(calls)}

    for name in ("b", "a", "b", "a"):
        stage.remembered("values.json", name, measure)
    assert Stages(tmp_path, TASK).remembered("values.json", "a", pytest.fail) == {"τ": 2}
    assert list(json.loads((tmp_path / "values.json").read_text("utf-8"))) == ["b", "a"]
    assert [p.name for p in tmp_path.iterdir()] == ["values.json"]


def test_nothing_is_kept_of_a_measurement_that_fails(tmp_path):
    stage = Stages(tmp_path, TASK)
    stage.remembered("values.json", "a", lambda: 1)
    with pytest.raises(ZeroDivisionError):
        stage.remembered("values.json", "b", lambda: 1 // 0)
    assert stage.remembered("values.json", "b", lambda: 2) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_measurement_is_interrupted_at_once(tmp_path, number):
    """One Ctrl-C is enough where nothing can be kept; elsewhere the first one is a request."""
    said = []
    with stop_on_interrupt(said.append) as stopped:
        stage = Stages(tmp_path, TASK, said.append, stopped)
        with pytest.raises(KeyboardInterrupt):
            stage.remembered("values.json", "a", lambda: signal.raise_signal(number))
        assert not said and not stopped() and not (tmp_path / "values.json").exists()
        signal.raise_signal(number)
        assert stopped() and "press Ctrl-C again" in said[0]


def test_no_measurement_begins_after_a_request_to_stop(tmp_path):
    stage = Stages(tmp_path, TASK, stopped=lambda: True)
    with pytest.raises(Interrupted):
        stage.remembered("values.json", "a", pytest.fail)
    Stages(tmp_path, TASK).remembered("values.json", "a", lambda: 1)
    assert stage.remembered("values.json", "a", pytest.fail) == 1  # what is known is given


@pytest.mark.parametrize(
    "content, expected",
    [
        ("[1]", "not what a run wrote"), ('"x"', "not what a run wrote"),
        ('{"a": 1', "is not strict JSON"), ("", "is not strict JSON"),
        ('{"a": NaN}', r"is not strict JSON \(NaN is not"), ("\0", "is not strict JSON"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, content, expected):
    (tmp_path / "values.json").write_text(content, "utf-8")
    sentence = f"^{re.escape(str(tmp_path / 'values.json'))}: {expected}"
    with pytest.raises(CheckpointError, match=sentence):
        Stages(tmp_path, TASK).remembered("values.json", "b", pytest.fail)
    assert (tmp_path / "values.json").read_text("utf-8") == content


def test_many_values_are_read_again(tmp_path):
    """More than the megabyte that a configuration may have: samples of thousands of tokens."""
    many = [list(range(200))] * 2000
    Stages(tmp_path, TASK).remembered("values.json", "a", lambda: many)
    assert (tmp_path / "values.json").stat().st_size > 1 << 20
    assert Stages(tmp_path, TASK).remembered("values.json", "a", pytest.fail) == many


# --------------------------------------------------------------------------------------------- text


def test_the_text_is_documents_between_their_tokens_and_of_training_problems():
    task, words = Countdown(), Countdown().tokenizer
    ids = pretraining_text(task, 3000, np.random.default_rng(2))
    assert ids.dtype == np.uint16 and ids.ndim == 1
    begins, ends = (np.flatnonzero(ids == t) for t in (words.bos_token_id, words.eos_token_id))
    assert len(begins) == len(ends) == 3000 and begins[0] == 0 and ends[-1] == len(ids) - 1
    assert (begins[1:] == ends[:-1] + 1).all() and (ends - begins > 1).all()
    held_out = {problem.prompt for problem in task.held_out_problems()}
    prompts = set()
    for start, end in zip(begins, ends, strict=True):
        text = words.decode(ids[start + 1 : end].tolist())
        prompts |= {text.split(" : ")[0] + " :"} if " : " in text else set()
    assert len(prompts) > 500 and not prompts & held_out
    rng, expected = np.random.default_rng(2), []
    for _ in range(3):
        expected += ["<bos>", *task.document(rng).split(), "<eos>"]
    assert words.decode(ids[: len(expected)].tolist()) == " ".join(expected)


def test_a_pretrainer_draws_weights_text_and_order_from_its_generator():
    one, other, third = (
        pretrainer(TASK, small.RECIPE, np.random.default_rng(seed), "cpu") for seed in (1, 1, 2)
    )
    assert weights_hash(one.model) == weights_hash(other.model) != weights_hash(third.model)
    assert one.step()["loss"] == other.step()["loss"] != third.step()["loss"]
    assert one.plan == small.RECIPE.pretrain
    assert len(one.held_out) > 5 * stages.HELD_OUT_DOCUMENTS
    assert (one.held_out[:20] != pretraining_text(TASK, 3, np.random.default_rng(1))[:20]).any()


# ------------------------------------------------------------------------------------------ weights


def with_mtp(seed=0):
    model = DeepSeekV3(small.RECIPE.config(TASK), np.random.default_rng(seed))
    model.routers[0].e_score_correction_bias[...] = np.linspace(-0.1, 0.1, 8)
    return model


def test_without_mtp_the_main_model_is_the_same_and_a_copy(device):
    model = with_mtp().to(device)
    ids = np.arange(5, 29).reshape(2, 12)
    main = without_mtp(model)
    assert main.device == device and main.config.num_nextn_predict_layers == 0
    assert model.config.num_nextn_predict_layers == 1
    logits = to_host(model(ids).data)
    np.testing.assert_array_equal(to_host(main(ids).data), logits)
    state, held = main.state_dict(), model.state_dict()
    assert 0 < len(state) < len(held) and {*state} < {*held}
    assert all((to_host(state[name]) == to_host(held[name])).all() for name in state)
    for array in state.values():
        array[...] = 0
    np.testing.assert_array_equal(to_host(model(ids).data), logits)
    again = without_mtp(without_mtp(model))
    np.testing.assert_array_equal(to_host(again(ids).data), logits)


def test_the_hash_is_of_every_weight_and_buffer(device):
    model = with_mtp().to(device)
    first = weights_hash(model)
    assert re.fullmatch("[0-9a-f]{64}", first) and first == weights_hash(with_mtp())
    for name, array in model.state_dict().items():
        kept = array.copy()
        array.reshape(-1)[-1] += 0.25
        assert weights_hash(model) != first, name
        array[...] = kept
    assert weights_hash(model) == first
    state = model.state_dict()
    one, two = "model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight"
    state[one][...], state[two][...] = 1.5, 2.5
    mixed = weights_hash(model)
    state[one][...], state[two][...] = 2.5, 1.5
    assert weights_hash(model) != mixed
    assert weights_hash(without_mtp(model)) != weights_hash(model)


def test_the_hash_is_of_arrays_by_name_not_of_one_heap_of_numbers():
    heap = np.arange(3, dtype=np.float32)
    found = {
        weights_hash(SimpleNamespace(state_dict=lambda arrays=arrays: arrays))
        for arrays in (
            {"a": heap}, {"b": heap}, {"a": heap[:1], "b": heap[1:]}, {"a": heap[:2], "b": heap[2:]}
        )
    }  # fmt: skip
    assert len(found) == 4
