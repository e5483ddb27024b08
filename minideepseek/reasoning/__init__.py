"""Part IV · Learning to reason: a small model that thinks before it answers.

Read in this order:

    Chapter 5 — DeepSeek-R1
    thinking     what a response is: a thought between <think> and </think>, then an answer
    tasks        problems that a program can verify, rewards, the split, one token per word
    countdown    the primary task: reach a target from two of four numbers, searching in words
    addition     the secondary one: column by column, with the carries written out
    evaluate     accuracy on problems that were never trained on, pass@k, majority vote
    countdown_statistics   what a thought consists of, and whether its verdicts are true
    r1/          the R1 pipeline: cold start, reasoning RL, rejection sampling, RL again

    Chapter 6 — Group relative policy optimisation
    grpo/        from a reward to a gradient: objective, sampler, scorer, trainer

    From random weights to a report
    recipe       every number, and the gates between the stages
    stages       running one stage, and going on with it after a kill
    journey      all of them: pre-training, cold start, GRPO, and the control
    jobs         one of them alone, of a saved model
    shipped      the cold-started model that comes with the package
    report       the page: record is what it is made of, curves draws the figures

No neural network judges anything here. After a cold start that shows it the form, the model learns
from its own samples alone, good against bad; a program reads the answer and says which is which.

Words that supervised learning does not need:

    response    what the model writes after a problem's prompt, thought and answer together; the
                papers call the two output o and question q, the code a completion and a prompt
    reward      the number r that a program gives a response
    policy      the model as the distribution π(o|q) over its responses; sampling at temperature 1
                draws from it
    rollout     the responses of one step, with the probabilities that they were drawn at
    group       G responses to the same problem
    on policy   learned from while the policy is still the one that wrote them
    reference   an earlier policy, frozen; KL says how far the policy has gone from it
    RL          reinforcement learning: make responses with a higher reward more probable
"""
