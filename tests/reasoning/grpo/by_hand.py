"""One step of GRPO written out: row by row without padding, slopes and AdamW in plain NumPy."""

import numpy as np

from minideepseek.model.transformer import DeepSeekV3
from minideepseek.training.optim import cosine_schedule


def copy_of(model: DeepSeekV3) -> DeepSeekV3:
    copy = DeepSeekV3.empty(model.config, "float64")
    copy.load_state_dict(model.state_dict())
    return copy


def advantages(rewards: np.ndarray, scale: str) -> np.ndarray:
    """(P, G) → (P, G), a group at a time."""
    found = np.zeros_like(rewards)
    for i, group in enumerate(rewards):
        for j, r in enumerate(group):
            others = np.delete(group, j)
            if scale == "rloo":
                found[i, j] = r - others.mean()
            elif scale == "none":
                found[i, j] = r - group.mean()
            elif (group != group[0]).any():
                found[i, j] = (r - group.mean()) / group.std()
    return found


class ByHand:
    """A copy of a trainer's policy before its first step, and AdamW's state."""

    def __init__(self, trainer) -> None:
        self.plan, self.most = trainer.plan, trainer.sampler.max_new_tokens
        self.model, self.reference = copy_of(trainer.model), copy_of(trainer.model)
        self.parameters = dict(self.model.named_parameters())
        self.m = {name: np.zeros_like(p.data) for name, p in self.parameters.items()}
        self.v = {name: np.zeros_like(p.data) for name, p in self.parameters.items()}
        self.updates = self.steps = 0

    def step(self, rollout, rewards, rng) -> list[float]:
        """All updates of a rollout; rng as the sampler left it. The gradients' norms."""
        plan = self.plan
        a = advantages(rewards, plan.scale)
        kept = np.ones(a.size, bool)
        if plan.kl_coef == 0:
            kept = np.repeat([(group != group[0]).any() for group in rewards], plan.group_size)
        if plan.truncated == "mask":
            kept &= rollout.ended
        rows, norms = rng.permutation(np.flatnonzero(kept)), []
        for part in np.array_split(rows, plan.minibatches) if rows.size else []:
            gradients = self.gradients(rollout, part, a.reshape(-1))
            norms.append(float(np.sqrt(sum((g**2).sum() for g in gradients.values()))))
            self.adamw(gradients, min(1.0, plan.clip_norm / (norms[-1] + 1e-6)))
        self.steps += 1
        return norms

    def gradients(self, rollout, part, a) -> dict[str, np.ndarray]:
        """Of one minibatch's loss, by name; a parameter that is not used has none."""
        plan = self.plan
        tokens = sum(rollout.lengths[i] - rollout.prompt_lengths[i] for i in part)
        for p in self.parameters.values():
            p.grad = None
        for i in part:
            first, last = rollout.prompt_lengths[i] - 1, rollout.lengths[i] - 1
            ids = rollout.ids[i, : last + 1]
            z, lp, p = self.read(self.model, ids, rollout.routing and rollout.routing[0][i, :last])
            ref = self.read(self.reference, ids)[1]
            old, count = rollout.logprobs[i, first:last], last - first
            weight = {
                "token": 1 / tokens,
                "sequence": 1 / len(part) / (count if plan.ratio == "token" else 1),
                "constant": 1 / len(part) / self.most,
            }[plan.aggregation]
            slopes = np.zeros(last)
            slopes[first:] = weight * self.slopes(lp[first:], old, ref[first:], a[i])
            onehot = np.eye(p.shape[1])[ids[1:]]
            z.backward((slopes[:, None] * (onehot - p) / plan.temperature)[None])
        return {n: p.grad.copy() for n, p in self.parameters.items() if p.grad is not None}

    def read(self, model, ids, experts=None):
        """The logits of a row as a Tensor, ln p of each next token, and p of all.

        experts: None, or those of the one MoE layer, (tokens, k).
        """
        routing = None if experts is None else [experts]
        z = model.logits(model.hidden(ids[None, :-1], routing=routing)[0])
        y = z.data[0] / self.plan.temperature
        p = np.exp(y - y.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return z, np.log(p[np.arange(len(p)), ids[1:]]), p

    def slopes(self, lp, old, ref, a) -> np.ndarray:
        """d(loss)/d(ln π) of one row's tokens, before the aggregation's weight."""
        plan = self.plan
        delta, x = lp - old, lp - ref
        if plan.ratio == "sequence":
            delta, x = np.full_like(lp, delta.sum()), np.full_like(lp, x.sum())
        rho = np.exp(delta)
        free = rho <= 1 + plan.clip_high if a > 0 else rho >= 1 - plan.clip_low
        pull = {
            "k1": np.ones_like(x),
            "k2": x,
            "k3": 1 - np.exp(-x),
            "unbiased": rho * (np.exp(-x) - 1 + x) + rho * (1 - np.exp(-x)),
        }[plan.kl]
        return -a * rho * free + plan.kl_coef * pull

    def adamw(self, gradients, factor) -> None:
        plan = self.plan
        self.updates += 1
        rate = cosine_schedule(
            self.steps, plan.steps, plan.learning_rate, plan.warmup_steps, plan.final_learning_rate
        )
        for name, g in gradients.items():
            g = g * factor
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = plan.beta2 * self.v[name] + (1 - plan.beta2) * g**2
            m = self.m[name] / (1 - 0.9**self.updates)
            v = self.v[name] / (1 - plan.beta2**self.updates)
            self.parameters[name].data[...] -= rate * m / (np.sqrt(v) + 1e-8)
