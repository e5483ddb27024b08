"""Everything that the package writes to the disk, and what each write promises.

    python -m tests.faults [NAME…] [--fault FAULT] [--stride N]

makes every system call that changes the disk fail in turn (ENOSPC once and from there on, EIO once
and from there on, a short write, SIGKILL before it and within it, Ctrl-C; killed after a call is
killed before the next), in a process of its own, looks at what is left with a second process, and
starts again with a third. Then the power is cut after every call, by what POSIX promises (power.py
replays the trace). It needs Linux and a C compiler: the calls are counted in C (shim.c), below
Python's buffers; a test compares them with what strace sees. Of a whole command's writes into one
file the first, the middle and the last are tried, of all stages' calls every fiftieth.

What may be left: "old or new", all at once; "each", every file old or new, finished by the next
start. What the next start says is a sentence on standard error (RecoveryWarning) or, of a run, on
standard output. An error is one sentence with the system's reason and exit code 2.

    where                     what                                 left after a fault
    ------------------------  -----------------------------------  ------------------------------
    model/files.py            atomic_write: a file                 old or new; on the disk when it
                                                                   returns; the dead's temporaries
                                                                   are removed, with a sentence
                              atomic_directory: a directory        old or new, the same; between
                                                                   its two renames a backup, which
                                                                   readers put back, saying so
                              make_directory                       each name on the disk when it
                                                                   returns
                              remove_directory: old checkpoints    whole or gone: renamed first
    model/leftovers.py        clear_leftovers: what the dead       all of it gone, with a sentence
                              left in a directory                  each
                              set_aside: a damaged file or         under its name or as damaged-…,
                              directory                            never over another
    model/checkpoint.py       save_pretrained: one file, shards    old or new, other files stay
                              with an index, FP8
                              write_model: into a directory        its caller's: atomic_directory
                              that is being written
    model/safetensors.py      save_file                            old or new (atomic_write)
    model/tokenizer.py        save_pretrained: two files           old or new, other files stay
    model/transformer.py      save_pretrained: checkpoint.py's     as there
    training/rundir.py        metrics.jsonl, a line                the line, a part of it or none; a
                                                                   part is cut at the next start.
                                                                   After a power cut: the lines up
                                                                   to the last checkpoint
                              metrics.jsonl cut at a resume        old or new, and a sentence
                              checkpoints/step-…                   old or new; the two newest are
                                                                   always whole; a damaged newest
                                                                   one is set aside and the one
                                                                   before it taken, and a sentence
    training/job.py           run.json                             old or new; before checkpoints/
    training/language.py      samples.json, model/                 old or new
    training/report.py        report.html                          old or new
    reasoning/journey.py      reasoning/ with its job.json         none or both
                              model/                               old or new
    reasoning/stages.py       evaluations.json, traces.json        old or new
    reasoning/report.py       report.html: training/report.py's    old or new
    reasoning/jobs.py         job.json, model/                     old or new
    reasoning/shipped.py      cold_started/ (for its makers)       old or new
    exercises/folder.py       start, a new folder                  none or all
                              start, an old folder                 each; the record last
                              the record: check, hint              old or new; a damaged one is set
                                                                   aside, and a sentence
    exercises/bugs.py         zoo show: folder.py's start          each; the record last
    book/site.py              the book                             old or new

(cli/ only calls these. A learner's file is judged in a process whose writes are its own.)
"""
