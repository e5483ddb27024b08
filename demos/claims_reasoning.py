"""Rows of demos/claims.py: how models learn to reason, and GRPO's objective."""

from __future__ import annotations

from demos.claims_models import OPEN, README, REPRODUCED, Claim

_SEEDS = "mini-Countdown, 117 held-out problems × 8, five seeds from random weights"
_ARMS = "mini-Countdown, 4 million token passes an arm, three seeds from random weights"
_EXPECTED = "exact: a policy over three tokens, all groups of three summed"
_TINY = "python -m pytest tests/reasoning/grpo/test_expectations.py"
_OBJECTIVE = "minideepseek/reasoning/grpo/objective.py"

REASONING = (
    Claim(
        "Reinforcement learning alone, from the base, makes a model reason (R1-Zero).",
        "R1 §2",
        f"{_ARMS}; the base has read some thoughts",
        "83.1 ± 12.6 % of the held-out problems",
        "python -m demos.r1_pipeline --full",
        (README, "R1-Zero: GRPO straight from the base"),
        seeds=(62.9, 41.9, 54.6),
        unit="points above the base",
        digits=1,
    ),
    Claim(
        "Answers grow longer by themselves.",
        "R1 §2",
        f"{_SEEDS}; no reward asks for length",
        "tokens a response 20 → 42",
        "python -m demos.reasoning_seeds --full",
        (README, "mini-Countdown, 117 held-out problems"),
        seeds=(22.9, 21.4, 23.9, 21.8, 20.5),
        unit="tokens",
        digits=1,
    ),
    Claim(
        "A cold start and four stages lead further than R1-Zero.",
        "R1 §3",
        f"{_ARMS}; any form of answer counted",
        "in every seed, by 1 to 9 points",
        "python -m demos.r1_pipeline --full",
        (README, "In every seed R1 is above R1-Zero"),
        seeds=(1.2, 9.2, 3.1),
        unit="points",
        digits=1,
    ),
    Claim(
        "What demonstrations hold limits who imitates them; reinforcement learning goes beyond.",
        "R1 §2",
        f"{_ARMS}; R1 against all compute on demonstrations",
        "29.3 ± 3.6 % with demonstrations alone",
        "python -m demos.r1_pipeline --full",
        (README, "cold start only, all compute on demonstrations"),
        seeds=(65.9, 51.8, 57.5),
        unit="points",
        digits=1,
    ),
    Claim(
        "For a small model distillation is better than reinforcement learning.",
        "R1, first version, §4.1",
        f"{_ARMS}; a student of 2 layers of width 64",
        "by 28 to 39 points; R1's own training is not counted",
        "python -m demos.r1_pipeline --full",
        (README, "In every seed R1 is above R1-Zero"),
        seeds=(32.3, 28.1, 39.1),
        unit="points",
        digits=1,
    ),
    Claim(
        "A reward for the form is needed, or thinking is lost.",
        "R1 §2, which rewards both",
        f"{_ARMS}; a reward for accuracy alone",
        "91 % of the base's responses think, 89 ± 16 % after it",
        "python -m demos.r1_pipeline --full",
        (README, "In every seed R1 is above R1-Zero"),
        OPEN,
    ),
    Claim(
        "Given enough samples the model before reinforcement learning solves as much.",
        "Yue et al. 2025 (arXiv 2504.13837)",
        f"{_SEEDS}; larger k was not drawn",
        "pass@8 93.3 → 99.5 %: of eight samples most problems are solved before, and more after",
        "python -m demos.reasoning_seeds --full",
        (README, "the same, greedy; pass@8; majority vote"),
        OPEN,
    ),
    Claim(
        "A majority vote adds to a model that reinforcement learning has trained.",
        "R1 §2; Wang et al. 2022 (arXiv 2203.11171)",
        _SEEDS,
        "98.1 % by vote of 8; of the cold start, whose likeliest answer is to give up, 10.8 %",
        "python -m demos.reasoning_seeds --full",
        (README, "the same, greedy; pass@8; majority vote"),
        seeds=(2.6, 5.0, 8.2, 3.5, 4.0),
        unit="points above one sample",
        digits=1,
    ),
    Claim(
        "A reward for answers does not teach the verifier: here it teaches to bluff.",
        "Yu et al. 2025 (arXiv 2510.12157)",
        "a cold start with meaningless verdicts, 16 steps, one seed",
        "`!` on 13 → 54 % of attempts, true verdicts 80 → 51 %",
        "python -m demos.grpo_failures --bluffing",
        (README, "GRPO's failures are shown by"),
        REPRODUCED,
    ),
)
OBJECTIVE = (
    Claim(
        "1/|o| favours short right and long wrong answers: the gradient.",
        "Dr. GRPO (arXiv 2503.20783)",
        _EXPECTED,
        "32.9 % of the expected gradient points elsewhere, by a constant denominator 0; with std "
        "28.9 and 5.7 %",
        _TINY,
        (_OBJECTIVE, "scale     constant"),
        REPRODUCED,
    ),
    Claim(
        "The same: wrong answers grow longer.",
        "Dr. GRPO",
        "from the shipped cold start, one seed",
        "does not show in 16 steps",
        "python -m demos.grpo_failures --length-bias",
        (README, "GRPO's failures are shown by"),
        OPEN,
    ),
    Claim(
        "Dividing by the group's deviation gives extreme questions more weight.",
        "Dr. GRPO",
        "exact: rewards of 0 and 1, groups of 16",
        "1.93 times where half of the responses are right, 3.27 times where 5 % are; no direction "
        "changes",
        _TINY,
        (_OBJECTIVE, "it multiplies a question's gradient"),
        REPRODUCED,
    ),
    Claim(
        "A mean over tokens treats lengths more evenly than one over answers.",
        "DAPO (arXiv 2503.14476)",
        _EXPECTED,
        "10.6 % of the expected gradient points elsewhere in place of 32.9 %; with std 7.1 in "
        "place of 28.9 %",
        _TINY,
        (_OBJECTIVE, "scale     constant"),
        REPRODUCED,
    ),
    Claim(
        "k3's gradient is not that of the divergence which it estimates.",
        "V3.2 (arXiv 2512.02556)",
        "exact: one pair of policies, whole outputs",
        "45 % off, the corrected form 33 %; k1's is not 0 but 43 % of k2's",
        _TINY,
        (_OBJECTIVE, "Against KL of whole outputs"),
        REPRODUCED,
    ),
)
