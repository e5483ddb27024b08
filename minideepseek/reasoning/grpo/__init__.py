"""Chapter 6 · Group relative policy optimisation, in reading order.

    objective    what an answer is worth beside its group: advantages, ratio, clip, penalty
    sampler      G answers to every prompt, and the log-probabilities they were drawn at
    scoring      the same tokens read again, with a gradient: the ratio must begin at 1
    plan         the numbers of a run, and where its problems come from
    trainer      one step: sample, judge, compare, update
    metrics      what to watch meanwhile, and when to stop
"""
