"""Rows of demos/claims.py: attention, experts, multi-token prediction, precision."""

from __future__ import annotations

from dataclasses import dataclass

REPRODUCED = "reproduced"
OPEN = "not resolvable at this scale"
CONTRADICTED = "contradicted at this scale"
README = "README.md"


@dataclass(frozen=True)
class Claim:
    """says: the claim as its source makes it. tested: at which scale, with how many seeds.

    result: figures that stand in `evidence`: (file, words of the row or paragraph). seeds:
    differences by seed, positive where the source's side is better, in `unit`; they decide the
    verdict, which otherwise is said here.
    """

    says: str
    source: str
    tested: str
    result: str
    command: str
    evidence: tuple[str, str]
    verdict: str = ""
    seeds: tuple[float, ...] = ()
    unit: str = ""
    digits: int = 3


_BITS = "bits per byte"
_FP8 = "a model of 2.8 million parameters, 360 steps"
_SUMS = "minideepseek/layers/fp8/accumulation.py"

ATTENTION = (
    Claim(
        "MLA keeps as much as a GQA of 2.25 groups, and far less than MHA.",
        "V2 §2.1, table 1",
        "counted at V3's sizes",
        "576 numbers a token and layer for MHA's 32,768: 57 times less, 2.25 times MQA's; 70,272 "
        "bytes a token",
        "minideepseek info --preset v3",
        ("minideepseek/layers/mla.py", "MLA's is 2.25 times larger"),
        REPRODUCED,
    ),
    Claim(
        "MLA reads better than MHA.",
        "V2 §2.1, table 1 (stronger, strong)",
        "byte models of 633,536 to 634,112 parameters, equal to 0.1 %; 500 steps, three seeds",
        "MLA 2.492 ± 0.040, MHA 2.449 ± 0.051, with 3.6 × the cache",
        "python -m demos.attention_kinds --full",
        (README, "four attention kinds at equal parameters"),
        seeds=(-0.058, -0.039, -0.033),
        unit=_BITS,
    ),
    Claim(
        "MHA reads better than GQA.",
        "V2 §2.1, table 1 (strong, moderate)",
        "the same models; what GQA saves became width of its MLP",
        "MHA 2.449 ± 0.051, GQA-2 2.369 ± 0.011",
        "python -m demos.attention_kinds --full",
        (README, "four attention kinds at equal parameters"),
        seeds=(-0.033, -0.112, -0.094),
        unit=_BITS,
    ),
    Claim(
        "MHA reads better than MQA.",
        "V2 §2.1, table 1 (strong, weak)",
        "the same models",
        "MHA 2.449 ± 0.051, MQA 2.422 ± 0.037",
        "python -m demos.attention_kinds --full",
        (README, "four attention kinds at equal parameters"),
        seeds=(0.055, -0.114, -0.020),
        unit=_BITS,
    ),
    Claim(
        "Absorbed, a decoded token needs no keys and values made from the latents again.",
        "V2 §2.1.2",
        "`small`, one sequence, one thread, 60 rounds in turns",
        "11.9 × as fast as re-expanding at a context of 4,096, 22.5 × at 16,384; against a form "
        "that copies no key 10.2 × and 18.4 ×",
        "python -m demos.mla_cost --full",
        (README, "absorbed against re-expanding"),
        REPRODUCED,
    ),
    Claim(
        "After YaRN a short training at the new length makes the long window usable.",
        "V3 §4.3",
        "`mini` trained at 128 tokens, read at 512; a fine-tune of 50 steps, three seeds",
        "with YaRN +0.16 to +0.26 bits per byte beyond reading 128 at a time, after the fine-tune "
        "+0.02 to +0.03",
        "python -m demos.long_context --full",
        (README, "a model trained at 128 tokens read at 512"),
        seeds=(0.232, 0.132, 0.208),
        unit=f"{_BITS} regained",
    ),
)
EXPERTS = (
    Claim(
        "V3 holds 671 billion parameters, of which 37 billion work for a token.",
        "V3, abstract",
        "counted from the configuration",
        "671,026,419,200 and 36,625,618,432",
        "minideepseek info --preset v3",
        (README, "| V3's ledger |"),
        REPRODUCED,
    ),
    Claim(
        "A bias balances experts without a loss.",
        "V3 §2.1.2; Wang et al. 2024 (arXiv 2408.15664)",
        "16 experts, a token uses 4; 500 steps, γ = 0.01, three seeds",
        "MaxVio 0.19 ± 0.03, least load 0.85 ± 0.08 of the mean, no dead expert; with neither bias "
        "nor loss 2 of 32 die",
        "python -m demos.moe_balance --full",
        (README, "balance by a bias"),
        REPRODUCED,
    ),
    Claim(
        "Without the auxiliary loss the model is better.",
        "V3 §4.5.2; Wang et al. 2024",
        "the same runs; the loss with α = 0.01",
        "bits per byte 3.047 ± 0.021, with the loss 3.100 ± 0.068",
        "python -m demos.moe_balance --full",
        (README, "balance by a bias"),
        seeds=(0.122, 0.032, 0.006),
        unit=_BITS,
    ),
    Claim(
        "γ = 0.001 suits the bias.",
        "V3 §4.2; Wang et al. 2024",
        "the same runs; V3's are many thousand steps long, these 500",
        "at γ = 0.001 three quarters of the steps stay uneven; at 0.01 MaxVio is 0.19 ± 0.03",
        "python -m demos.moe_balance --full",
        (README, "balance by a bias"),
        CONTRADICTED,
    ),
    Claim(
        "Fine-grained and shared experts read better than a standard mixture at equal cost.",
        "DeepSeekMoE §4 (arXiv 2401.06066)",
        "equal parameters and work, both balanced by the loss; 1,000 steps, three seeds",
        "StandardMoE 2.518 ± 0.044; with the bias in place of the loss 2.504 ± 0.006",
        "python -m demos.moe_benchmark --full",
        (README, "StandardMoE, DeepSeekMoE and a dense MLP"),
        seeds=(0.034, 0.049, -0.033),
        unit=_BITS,
    ),
    Claim(
        "A mixture of experts reads better than a dense layer that does the same work for a token.",
        "DeepSeekMoE §4",
        "DeepSeekMoE with the bias, four times the parameters; 1,000 steps, three seeds",
        "2.504 ± 0.006, dense 2.571 ± 0.013",
        "python -m demos.moe_benchmark --full",
        (README, "StandardMoE, DeepSeekMoE and a dense MLP"),
        seeds=(0.076, 0.052, 0.071),
        unit=_BITS,
    ),
)
PREDICTION = (
    Claim(
        "Trained with an MTP module the main model is better.",
        "V3 §4.5.1",
        "`mini`, 900 steps with the same batches, three seeds",
        "2.131 ± 0.027 bits per byte, without 2.165 ± 0.002",
        "python -m demos.mtp_effect --full",
        (README, "`mini` trained with the MTP module beside"),
        seeds=(0.0538, 0.0019, 0.0466),
        unit=_BITS,
        digits=4,
    ),
    Claim(
        "The module is worth its time: at equal time, too, the main model is better with it.",
        "V3 §4.5.1 compares at equal tokens only",
        "the same, as many steps more without the module as its time pays for",
        "2.131 ± 0.027 with it, 2.065 ± 0.001 with more steps",
        "python -m demos.mtp_effect --full",
        (README, "`mini` trained with the MTP module beside"),
        seeds=(-0.0462, -0.0967, -0.0540),
        unit=_BITS,
        digits=4,
    ),
    Claim(
        "85 to 90 % of the module's drafts are accepted.",
        "V3 §5.4.3",
        "`mini` after 350 steps, 12 bytes after 128 prompts, one seed",
        "greedy 88.6 %; at temperature 1 75.9 %; along held-out text both agree on 73 %",
        "python -m demos.speculative",
        (README, "drafts of the MTP module"),
        REPRODUCED,
    ),
    Claim(
        "Drafts write 1.8 times as fast.",
        "V3 §5.4.3",
        "one sequence, one thread of CPU, two runs",
        "`mini` 0.75 ×; with experts up to width 1,024 × 8 layers 0.9 to 1.0 ×; dense of that size "
        "1.05 ×",
        "python -m demos.speculative",
        (README, "what drafts do to the speed"),
        CONTRADICTED,
    ),
)
PRECISION = (
    Claim(
        "Sums of 4,096 products in 14 bits are off by nearly 2 %.",
        "V3 §3.3.2",
        "K = 4096, emulated; the paper does not describe its data",
        "worst element: normal data 1.17 %, with a mean of 1/2 1.51 %, of 1 4.10 %, uniform 7.94 %",
        "python -m demos.fp8_numbers",
        (_SUMS, "uniform, 0 to 1"),
        REPRODUCED,
    ),
    Claim(
        "Promotion to float32 every 128 products cures it.",
        "V3 §3.3.2",
        "the same, 256 × 256 outputs, error in norm",
        "uniform data 7.5 % → 0.06 %, normal data 0.13 → 0.013 %",
        "python -m demos.fp8_numbers --full",
        (README, "sums of 4,096 products in 14 bits"),
        REPRODUCED,
    ),
    Claim(
        "FP8 training's loss is within 0.25 % of high precision's: whole runs.",
        "V3 §3.3, appendix B.1",
        f"{_FP8}, 5 pairs, ± half of a 95 % interval",
        "+0.8 ± 3.0 %; it would take about 350 pairs",
        "python -m demos.fp8_training --full",
        (README, "whole runs in FP8 beside float32"),
        OPEN,
    ),
    Claim(
        "The same: runs that part at a checkpoint.",
        "V3 §3.3, appendix B.1",
        f"{_FP8}, the last 110 of them in FP8, 5 pairs, ± half of a 95 % interval",
        "+0.071 ± 0.061 %: below the bound, and not zero",
        "python -m demos.fp8_training --full",
        (README, "the last 110 of 360 steps"),
        REPRODUCED,
    ),
    Claim(
        "Fine-grained scales keep outliers from harming the others.",
        "V3 §3.3.2",
        f"{_FP8}; the loss of first tokens counts 100,000 times",
        "error of the others' gradients: V3's recipe 6 → 6 %, one scale a tensor 6 → 65 %",
        "python -m demos.fp8_training --full",
        (README, "the same with first tokens whose loss counts"),
        REPRODUCED,
    ),
    Claim(
        "Fine-grained scales make better gradients than one scale a tensor.",
        "V3 §3.3.2",
        f"{_FP8}; gradients as they come, 72 matrices",
        "error below a tenth of the noise in 72 of 72 (worst 0.099), one scale a tensor 72 (0.097)",
        "python -m demos.fp8_training --full",
        (README, "FP8 gradients beside the noise"),
        OPEN,
    ),
    Claim(
        "128 × 128 tiles on the gradients of outputs make training diverge.",
        "V3, appendix B.2",
        f"{_FP8}; the paper's model has 16 billion and saw 300 billion tokens",
        "no run diverged; with loud tokens the others' gradients are off by 7 → 35 %, V3's tiles "
        "6 → 6 %",
        "python -m demos.fp8_training --full",
        (README, "the same with first tokens whose loss counts"),
        OPEN,
    ),
    Claim(
        "Scales that are powers of two save the error of a second quantisation.",
        "V3 §3.3.3",
        f"{_FP8}; 72 matrices",
        "V3's recipe worst 0.099 of the noise, without its powers of two 0.101",
        "python -m demos.fp8_training --full",
        (README, "FP8 gradients beside the noise"),
        OPEN,
    ),
    Claim(
        "AdamW's moments in bfloat16 cost nothing that can be seen.",
        "V3 §3.3.3",
        f"{_FP8}, the last 110, 5 pairs, ± half of a 95 % interval",
        "−0.007 ± 0.044 % of the loss",
        "python -m demos.fp8_training --full",
        (README, "the last 110 of 360 steps"),
        REPRODUCED,
    ),
)
