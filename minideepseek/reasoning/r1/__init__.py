"""Chapter 5 — DeepSeek-R1: from a language model to one that thinks

    pipeline     the four stages of R1, R1-Zero and distillation; rejection sampling
    sft          supervised fine-tuning: several samples in a row, the loss on responses alone
    sources      where the samples come from: a teacher, or a fixed set that was accepted
    model        `ReasoningModel`: ask, and get thinking and answer apart

The reinforcement learning of these stages is chapter 6, `reasoning/grpo/`. Here it is enough to
know that it makes responses with a higher reward more probable, and that its `GroupSampler` draws G
responses to each problem.
"""
