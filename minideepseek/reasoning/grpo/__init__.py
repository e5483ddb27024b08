"""Chapter 6 — Group relative policy optimisation: from a reward to a gradient

    objective    what a response is worth beside its group: advantages, ratio, clip, penalty
    sampler      G responses to every prompt, and the probabilities they were drawn at
    scoring      the same tokens read again, with a gradient: the ratio must begin at 1
    plan         the numbers of a run, and where its problems come from
    metrics      what to watch meanwhile, and when to stop
    trainer      one step: sample, judge, compare, update

How a number without a derivative moves weights
-----------------------------------------------
Pre-training imitates a text that somebody wrote. Here nobody has written the right response o to a
question q; a program looks at one that the model wrote and gives it a reward r(o). What is to grow
is the reward that the policy π earns on average,

    E[r] = Σₒ π(o|q) r(o) .

r has no derivative with respect to the weights, π has; and since ∇π = π ∇ ln π,

    ∇ E[r] = Σₒ π(o|q) r(o) ∇ ln π(o|q) = E[ r(o) ∇ ln π(o|q) ] ,
    ln π(o|q) = Σₜ ln π(oₜ | q, o_<t) .

So: sample responses and raise the log-probability of their tokens, as fine-tuning does, each
response with its reward as weight (REINFORCE, Williams 1992). This is right on average, and noisy:
where every reward is positive, every response drawn is pushed up, and which ones were drawn weighs
more than how good they are. A number b that does not depend on the response may be subtracted from
r, for

    E[ b ∇ ln π ] = b Σₒ ∇π(o|q) = b ∇1 = 0 ,

and the noise is small if b is what the policy usually earns at this question. PPO trains a second
network to predict it. GRPO draws G responses to the same question and takes their mean. What is
left is the advantage A: by how much a response is better than its group, in units of the group's
standard deviation. (Both are made of the group's own rewards; what that changes, `objective` works
out.)

Sampling is dear, so a rollout serves several updates. After the first the policy is no longer the
one that wrote it: the ratio ρ says how much likelier each token is by now, and a clip takes the
gradient from a token whose probability has moved far enough.

One group by hand
-----------------
Four responses to a question, for brevity of one token each, drawn when that token had probability
0.5. The rewards have mean 0.3 and variance (0.8² + 0.2² + 0.3² + 0.3²)/4 = 0.215 = 0.464². After
one update, with ε = 0.2, the loss is minus the mean of the last column but one:

    response             r      A       now     ρ     min(ρA, clip(ρ)A)     ∂loss/∂ln π
    right                1.1    1.73    0.65    1.3   1.2 · 1.73 =  2.07    0: risen far enough
    tidy and wrong       0.1   −0.43    0.35    0.7   0.8 · −0.43 = −0.35   0: fallen far enough
    cut off              0     −0.65    0.65    1.3   1.3 · −0.65 = −0.84   −ρA/4: rose, but is bad
    without a thought    0     −0.65    0.50    1     1.0 · −0.65 = −0.65   −ρA/4

>>> import numpy as np
>>> from minideepseek.autograd.engine import Parameter
>>> from minideepseek.reasoning.grpo.objective import group_advantages, grpo_loss
>>> advantages = group_advantages([[1.1, 0.1, 0.0, 0.0]])[0]
>>> advantages.round(2)
array([ 1.73, -0.43, -0.65, -0.65])
>>> drawn = np.log([[0.50], [0.50], [0.50], [0.50]])
>>> now = Parameter(np.log([[0.65], [0.35], [0.65], [0.50]]))
>>> loss, parts = grpo_loss(now, drawn, advantages, mask=np.ones((4, 1)))
>>> loss.backward()
>>> round(loss.item(), 2), now.grad[:, 0].round(2).tolist()
(-0.06, [-0.0, 0.0, 0.21, 0.16])
>>> parts["clip_ratio/low_mean"], parts["clip_ratio/high_mean"]     # the second, and the first
(0.25, 0.25)

Where all four earn the same, right or wrong, every advantage is 0: such a group teaches nothing.
"""
