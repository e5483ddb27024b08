"""Part IV · Learning to reason: a small model that thinks before it answers.

Read in this order:

    thinking     what a response is: a thought between <think> and </think>, then an answer
    tasks        problems that a program can verify, rewards, the split, one token per word
    countdown    the primary task: reach a target from two of four numbers, searching in words
    addition     the secondary one: column by column, with the carries written out
    r1/          Chapter 5: the R1 pipeline: cold start, reasoning RL, rejection sampling, RL again
    grpo/        Chapter 6: group relative policy optimisation: objective, sampler, trainer
    evaluate     accuracy on problems that were never trained on, pass@k, majority vote

No neural network judges anything here. A response earns a number from a program that reads its
answer, and the model's own samples, good against bad, are all that it learns from.
"""
