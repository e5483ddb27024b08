"""Part III · How it learns: from text to a trained model and a report of how it went.

    corpus       where the text comes from, and an honest held-out part
    data         batches, evaluation windows, and the compressors to beat
    optim        AdamW, clipping, the schedule
    blame        which number went bad first
    trainer      one step: losses, one look at them, an update, the routers' biases
    rundir       a run's directory: metrics, checkpoints, going on after a kill
    language     the language part of the journey
    report       the report page; page, figures and scales draw it
    progress     how far long work has come
"""
