"""Reinforcement learning: PPO's clipped objective, GRPO's, its penalty and its advantage."""

from math import comb

from numpy import clip, log, mean, std

from minideepseek.equations.ledger import Symbol, equation

SYMBOLS = (
    Symbol("G", "", "group_size"),
    Symbol("ε", "", "clip_epsilon"),
    Symbol("β", "", "kl_coef"),
    Symbol("ρ_t", "", "rho"),
    Symbol("ρ_i", "", "rho"),
    Symbol("ρ_{i,t}", "", "rho"),
    Symbol("A_i", "", "advantages"),
    Symbol("\\hat{A}_{i,t}", "", "advantages"),
    Symbol("π_{\\operatorname{old}}", "", "old_logprobs, ln π_old"),
    Symbol("π_{\\operatorname{ref}}", "", "ref_logprobs, ln π_ref"),
    Symbol("r_i", "", "rewards"),
)


@equation(
    "MATH:1",
    title="PPO's clipped objective, one output",
    latex=r"J_{\operatorname{PPO}} = \frac{1}{\abs{o}} \sum_{t=1}^{\abs{o}} \min(ρ_t A_t, "
    r"\operatorname{clip}(ρ_t, 1 - ε, 1 + ε) A_t) \\ ρ_t = "
    r"\frac{π(o_t | q, o_{<t})}{π_{\operatorname{old}}(o_t | q, o_{<t})}",
    library="reasoning.grpo.objective:grpo_loss",
    code="surrogate = ops.minimum(",
    exercise="clipped_objective",
    note="The mean over q and o, E[…], is the batch's. The loss is −J.",
)
def ppo(ρ, A, ε):  # ρ[t], A[t]
    terms = [min(ρ[t] * A[t], clip(ρ[t], 1 - ε, 1 + ε) * A[t]) for t in range(len(ρ))]
    return sum(terms) / len(terms)


@equation(
    "MATH:3",
    title="GRPO's objective, token by token",
    latex=r"J_{\operatorname{GRPO}} = \frac{1}{G} \sum_{i=1}^{G} \frac{1}{\abs{o_i}} "
    r"\sum_{t=1}^{\abs{o_i}} (\min(ρ_{i,t} \hat{A}_{i,t}, "
    r"\operatorname{clip}(ρ_{i,t}, 1 - ε, 1 + ε) \hat{A}_{i,t}) - β D_{\operatorname{KL}}) \\"
    r"ρ_{i,t} = \frac{π(o_{i,t} | q, o_{i,<t})}{π_{\operatorname{old}}(o_{i,t} | q, o_{i,<t})}",
    library="reasoning.grpo.objective:grpo_loss",
    code="surrogate = ops.minimum(",
    exercise="loss_aggregation",
    note='aggregation="sequence", ratio="token". The mean over q is the batch\'s. The loss is −J.',
)
def grpo(ρ, Â, D_KL, ε, β):  # ρ[i][t], Â[i], D_KL[i][t]
    def term(i, t):
        return min(ρ[i][t] * Â[i], clip(ρ[i][t], 1 - ε, 1 + ε) * Â[i]) - β * D_KL[i][t]

    return mean([mean([term(i, t) for t in range(len(ρ[i]))]) for i in range(len(ρ))])


@equation(
    "MATH:4",
    title="The penalty of a token, k3",
    latex=r"D_{\operatorname{KL}} = \frac{π_{\operatorname{ref}}}{π} - "
    r"\ln \frac{π_{\operatorname{ref}}}{π} - 1 , \quad \text{both of} o_{i,t} "
    r"\text{given} q, o_{i,<t}",
    library="reasoning.grpo.objective:kl_estimate",
    code="k3 = ops.exp(-x) - 1 + x",
    exercise="k3",
    note="x = ln π − ln π_ref.",
)
def penalty(π, π_ref):  # of one token
    return π_ref / π - log(π_ref / π) - 1


@equation(
    "V2:32",
    "V3:26",
    "R1:1",
    title="GRPO's objective, output by output",
    latex=r"J_{\operatorname{GRPO}} = \frac{1}{G} \sum_{i=1}^{G} (\min(ρ_i A_i, "
    r"\operatorname{clip}(ρ_i, 1 - ε, 1 + ε) A_i) - β D_{\operatorname{KL}}) \\"
    r"ρ_i = \frac{π(o_i | q)}{π_{\operatorname{old}}(o_i | q)}",
    library="reasoning.grpo.objective:grpo_loss",
    code="lp, real = lp.sum(1",
    note='aggregation="sequence", ratio="sequence": the line makes an output one action.',
)
def grpo_of_outputs(ρ, A, D_KL, ε, β):  # ρ[i], A[i], D_KL[i]
    G = len(ρ)
    terms = [min(ρ[i] * A[i], clip(ρ[i], 1 - ε, 1 + ε) * A[i]) - β * D_KL[i] for i in range(G)]
    return sum(terms) / G


@equation(
    "V2:33",
    "V3:27",
    "R1:2",
    title="The penalty of an output, k3",
    latex=r"D_{\operatorname{KL}} = \frac{π_{\operatorname{ref}}(o_i | q)}{π(o_i | q)} - "
    r"\ln \frac{π_{\operatorname{ref}}(o_i | q)}{π(o_i | q)} - 1",
    library="reasoning.grpo.objective:grpo_loss",
    code="penalty = kl_estimate(",
    exercise="k3",
)
def penalty_of_output(π, π_ref):  # π[t]: of the output's tokens
    ratio = π_ref.prod() / π.prod()
    return ratio - log(ratio) - 1


@equation(
    "V2:34",
    "V3:28",
    "MATH:advantage (section 4.1.2)",
    "R1:3",
    title="The group advantage",
    latex=r"A_i = \frac{r_i - \operatorname{mean}(r)}{\operatorname{std}(r)}",
    library="reasoning.grpo.objective:group_advantages",
    code='if scale == "std"',
    exercise="group_advantages",
    note="std of the group itself (divided by G) without an ε; a group of equal rewards is 0.",
)
def advantage(r):  # the rewards of one group
    return (r - mean(r)) / std(r)


@equation(
    "CODEX:pass (section 2.1)",
    title="pass@k without bias",
    latex=r"\operatorname{pass@k} = 1 - \frac{\operatorname{C}(n - c, k)}{\operatorname{C}(n, k)}",
    library="reasoning.evaluate:pass_at_k",
    code="return (draws - math.comb(",
    note="C(n, k) is the number of ways to choose k of n; c of the n samples are right.",
)
def pass_at_k(n, c, k):
    return 1 - comb(n - c, k) / comb(n, k)
