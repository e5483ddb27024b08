"""What all tasks share: the split, the ids, the rewards and their failures."""

import re
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minideepseek.errors import InputError
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.reasoning.addition import Addition
from minideepseek.reasoning.countdown import Countdown
from minideepseek.reasoning.tasks import (
    REWARDS,
    Completion,
    Problem,
    Reward,
    Task,
    accuracy,
    answer_accuracy,
    format_reward,
    score,
    vocabulary,
)

TASKS = [Countdown(), Countdown(3, 12), Countdown(5, 9), Addition(), Addition(2), Addition(5)]
COUNTDOWN = TASKS[0]
PROBLEM = Problem("9 8 5 3 > 13 :", ((9, 8, 5, 3), 13))


class Fixed(Task):
    """One problem only, on whichever side it falls."""

    name, max_prompt_tokens, max_new_tokens = "fixed", 2, 6

    def __init__(self, prompt):
        self.prompt = prompt

    def problem(self, rng):
        return Problem(self.prompt, (int(self.prompt),))

    def demonstration(self, problem, rng):
        return f"<think> {problem.prompt} </think> {problem.prompt}"

    def verify(self, problem, answer):
        return answer == problem.prompt


HELD_OUT, TRAINED = "6", "7"


def test_the_vocabulary_is_that_of_the_preset():
    words, preset = vocabulary(), DeepSeekV3Config.preset("reason")
    assert len(words) == len(set(words)) == preset.vocab_size == 33
    for tokenizer in (COUNTDOWN.tokenizer, Addition().tokenizer):
        assert tokenizer.tokens == tuple(words)
        assert tokenizer.pad_token_id == preset.pad_token_id
        assert tokenizer.bos_token_id == preset.bos_token_id
        assert tokenizer.eos_token_id == preset.eos_token_id
    assert vocabulary(40)[:33] == words and vocabulary(40)[-1] == "40"


def test_a_run_fits_into_the_presets_context():
    context = DeepSeekV3Config.preset("reason").max_position_embeddings
    for task in (COUNTDOWN, Addition()):
        assert task.max_prompt_tokens + task.max_new_tokens <= context


# What a prompt looks like, to find it at the beginning of a document.
PROMPTS = {"countdown": r"(\d+ ){2,}> \d+ :", "addition": r"(\d ){2,}\+ (\d ){2,}="}
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda t: f"{t.name}-{t.max_prompt_tokens}")


@every_task
@given(seed=st.integers(0, 2**32 - 1))
def test_responses_fit_and_verify_and_are_well_formed(task, seed):
    rng = np.random.default_rng(seed)
    problem = task.draw(rng)
    text = task.demonstration(problem, rng)
    completion = Completion(problem, text, ended=True)
    assert format_reward(task, completion) == 1
    right = task.verify(problem, completion.thought.answer)
    assert right or completion.thought.answer == "?"
    assert accuracy(task, completion) == right
    assert len(task.prompt_ids(problem)) == task.max_prompt_tokens
    assert len(task.response_ids(text)) <= task.max_new_tokens


@every_task
def test_documents_hold_no_problem_that_is_held_out(task):
    """Read back from the text, and by the rule as it is written in the docstring."""
    rng, prompts = np.random.default_rng(0), []
    for document in (task.document(rng) for _ in range(5000)):
        task.tokenizer.encode(document, allow_special=True)  # all words are known
        if found := re.match(PROMPTS[task.name], document):
            prompts.append(found[0])
    assert len(prompts) > 2000
    assert {len(prompt.split()) for prompt in prompts} == {task.max_prompt_tokens - 1}
    assert all(zlib.crc32(prompt.encode()) % 10 for prompt in prompts)


@every_task
def test_what_is_held_out_is_listed_once_and_always_the_same(task):
    problems = task.held_out_problems()
    assert 100 <= len(problems) == len(set(problems))
    assert all(zlib.crc32(p.prompt.encode()) % 10 == 0 for p in problems)
    assert problems == task.held_out_problems()
    rng = np.random.default_rng(1)
    assert not set(problems) & {task.draw(rng) for _ in range(2000)}
    assert all(task.is_held_out(task.draw(rng, held_out=True)) for _ in range(100))


@every_task
def test_one_seed_one_text(task):
    texts = [[task.document(np.random.default_rng(s)) for s in range(50)] for _ in range(2)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 25


def test_draw_knows_the_sides_and_says_when_one_is_empty():
    rng = np.random.default_rng(0)
    assert Fixed(HELD_OUT).draw(rng, held_out=True).prompt == HELD_OUT
    assert Fixed(TRAINED).draw(rng).prompt == TRAINED
    with pytest.raises(InputError, match="fixed: no training problem in 30,000 draws"):
        Fixed(HELD_OUT).draw(rng)
    with pytest.raises(InputError, match="fixed: no held-out problem"):
        Fixed(TRAINED).draw(rng, held_out=True)
    assert Fixed(TRAINED).held_out_problems() == []
    assert Fixed(HELD_OUT).held_out_problems() == [Problem(HELD_OUT, (6,))]
    assert Fixed(TRAINED).document(rng) == "7 <think> 7 </think> 7"


def test_a_task_asks_for_no_skills_unless_it_says_so():
    assert Fixed(TRAINED).skills() == Addition().skills() == {}


def test_ids_have_the_special_tokens_where_they_belong():
    ids = COUNTDOWN.prompt_ids(PROBLEM)
    assert ids.dtype == np.int64
    assert COUNTDOWN.tokenizer.decode(ids) == "<bos> 9 8 5 3 > 13 :"
    ids = COUNTDOWN.response_ids("<think> 8 + 5 = 13 ! </think> 8 + 5")
    assert ids.dtype == np.int64
    assert COUNTDOWN.tokenizer.decode(ids) == "<think> 8 + 5 = 13 ! </think> 8 + 5 <eos>"
    with pytest.raises(InputError, match="'nineteen' is not one of"):
        COUNTDOWN.response_ids("nineteen")
    with pytest.raises(InputError, match="special token"):
        COUNTDOWN.prompt_ids(Problem("<think> 9", ()))


# -- rewards ---------------------------------------------------------------------------------------

GRADES = {  # text and whether it ended → accuracy, format, answer_accuracy
    ("<think> 8 + 5 = 13 ! </think> 8 + 5", True): (1, 1, 1),
    ("<think> </think> 5 + 8", True): (1, 1, 1),
    ("<think> 8 + 5 = 13 ! </think> 9 + 5", True): (0, 1, 0),
    ("<think> 9 + 8 = 17 ? </think> ?", True): (0, 1, 0),
    ("<think> 8 + 5 = 13 ! </think> 8 + 5", False): (0, 0, 0),  # missing end token
    ("<think> 8 + 5 </think> </think> 8 + 5", True): (0, 0, 0),
    ("<think> <think> 8 + 5 </think> 8 + 5", True): (0, 0, 0),
    ("<think> </think> 8 + 5 8 + 5", True): (0, 1, 0),  # text after the answer
    ("<think> </think> 8 + 5 <pad>", True): (0, 1, 0),
    ("<think> 8 + 5", True): (0, 0, 0),
    ("</think> 8 + 5", True): (0, 0, 0),
    ("8 + 5", True): (0, 0, 1),  # a direct answer
    ("8 + 5", False): (0, 0, 0),
    ("9 + 5", True): (0, 0, 0),
    ("", True): (0, 0, 0),
}


@pytest.mark.parametrize("case", GRADES, ids=str)
def test_each_reward_of_each_kind_of_response(case):
    completion = Completion(PROBLEM, *case)
    rewards = (accuracy, format_reward, answer_accuracy)
    found = [reward(COUNTDOWN, completion) for reward in rewards]
    assert tuple(found) == GRADES[case] and {type(value) for value in found} == {float}


class Lenient(Fixed):
    """A verifier that takes anything: what is refused then, the form refuses."""

    def verify(self, problem, answer):
        return True


@pytest.mark.parametrize("text", ["<think> 7", "7 </think>", "</think> 7", "7 <think> </think> 7"])
def test_half_a_thought_is_not_a_direct_answer(text):
    task = Lenient(TRAINED)
    assert answer_accuracy(task, Completion(Problem("7", (7,)), text, ended=True)) == 0
    assert answer_accuracy(task, Completion(Problem("7", (7,)), "7", ended=True)) == 1


@given(st.text() | st.text(alphabet=" 0123589+-=<think>/:"), st.booleans())
def test_no_text_breaks_a_reward(text, ended):
    for task, problem in ((COUNTDOWN, PROBLEM), (Addition(), Problem("1 2 + 3 4 =", (12, 34)))):
        completion = Completion(problem, text, ended)
        for reward in (accuracy, format_reward, answer_accuracy):
            assert reward(task, completion) in (0.0, 1.0)


def test_the_sum_is_weighted_and_the_parts_are_not():
    completions = [Completion(PROBLEM, *case) for case in GRADES]
    scores = score(COUNTDOWN, completions, REWARDS)
    assert list(scores) == ["accuracy", "format", "reward"]
    assert all(v.shape == (len(GRADES),) and v.dtype == np.float64 for v in scores.values())
    table = np.array(list(GRADES.values()), np.float64)
    np.testing.assert_array_equal(scores["accuracy"], table[:, 0])
    np.testing.assert_array_equal(scores["format"], table[:, 1])
    np.testing.assert_allclose(scores["reward"], table[:, 0] + 0.1 * table[:, 1], rtol=1e-15)
    assert score(COUNTDOWN, [], REWARDS)["reward"].shape == (0,)
    alone = score(COUNTDOWN, completions, [Reward("guess", -2.0, answer_accuracy)])
    np.testing.assert_array_equal(alone["reward"], -2 * table[:, 2])


def broken(value):
    """A reward that gives 1 for every completion but the second, where it gives or raises value."""

    def function(task, completion):
        if not completion.text.startswith("9"):
            return 1.0
        if isinstance(value, Exception):
            raise value
        return value

    return Reward("mine", 1.0, function)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (float("nan"), "returned nan"),
        (float("inf"), "returned inf"),
        (-float("inf"), "returned -inf"),
        (None, "raised TypeError"),
        ("good", "raised ValueError"),
        (ZeroDivisionError("division by zero"), r"raised ZeroDivisionError \(division by zero\)"),
        (KeyError("x"), "raised KeyError"),
    ],
)
def test_a_reward_that_fails_is_named_with_the_completion(value, found):
    completions = [Completion(PROBLEM, text, True) for text in ("8 + 5", "9 + 5")]
    sentence = rf"reward 'mine': {found}.*completion '9 \+ 5' of '9 8 5 3 > 13 :'"
    with pytest.raises(InputError, match=sentence):
        score(COUNTDOWN, completions, [*REWARDS, broken(value)])


@pytest.mark.parametrize("names", [[], ["a", "a"], ["reward"], ["a", "reward"]])
def test_names_that_cannot_be_columns(names):
    with pytest.raises(InputError, match="rewards: got the names"):
        score(COUNTDOWN, [], [Reward(name, 1.0, accuracy) for name in names])


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_is_finite(weight):
    with pytest.raises(InputError, match="reward 'a': got weight"):
        score(COUNTDOWN, [], [Reward("a", weight, accuracy)])
