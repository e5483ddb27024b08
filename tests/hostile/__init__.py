r"""Hostile files: whatever lies in a folder, a reader gives what is there or says what is wrong.

    python -m tests.hostile            a million files; __main__.py has the options

A case is a valid folder of which a file or two are changed: bytes flipped, cut, moved, doubled,
recoded; JSON with other values, spellings and names twice; headers that lie about lengths, offsets
and shapes; an index that points elsewhere; pipes, links, folders and devices in a file's place; or
files written from the format's grammar. A reader may do one of two things with it:

    accept      and the value is the one that an independent oracle finds in the bytes
    refuse      with an error of minideepseek/errors.py: one printable line of at most 2,000
                characters. Where the oracle can tell, it is refused only for a reason.

Everything else is a violation: another exception, a warning, ten seconds without an end, a process
that dies, memory beyond a multiple of the files' bytes and 1 MiB, a path opened outside the folder,
a change that means nothing (the order of names, white space, a link to the same content) refused.

The oracles. tensors.py asks the reference library: what is accepted it accepts, with the same bytes
(STRICTER lists for what this package refuses files that the library reads). strict.py is a second
parser of JSON, config_rules.py the rules of a configuration written down again; models' weights are
decoded anew from the library's bytes, and what a run wrote is compared value by value.

Readers that are thrown files at (readers.py), and what each promises
---------------------------------------------------------------------
    safetensors   model/safetensors.py   every tensor's dtype, shape and bytes as the library has
                                         them, read as one mapping or singly, not writable
    json          model/strict_json.py   strict JSON, at most 64 deep, of at most the size asked
    config        model/config.py        exactly the fields stated, the defaults of transformers
    index         model/contents.py      every tensor in the one file that the index names, the file
                                         beside it; config, index and headers agree
    model         model/checkpoint.py    every weight finite, as stored, none left over
    fp8           model/fp8.py           codes and scales bit for bit, or quantised to half a step
    inspect       model/inspect.py       the same faults as the reader finds, nothing unprintable
    tokenizer     model/tokenizer.py     only a file that this tokenizer would write
    metrics       training/rundir.py     whole lines of a step and numbers; a cut last one left out
    report        training/report.py     a page of any metrics that were accepted; reasoning's too
    run           training/job.py        run.json: preset, texts, plan as they were written
    job           reasoning/jobs.py      job.json of sft and grpo
    journey       reasoning/journey.py   job.json of the reasoning part
    checkpoint    training/rundir.py     resume: weights, moments, loader, counters as stored; v ≥ 0
    samples       training/language.py   samples.json as it was, or none: they can be done without
    evaluations   reasoning/stages.py    the entry as it is, its sentence and its page; measured
                                         again only where there is none
    traces        reasoning/journey.py   texts as they were
    progress      exercises/folder.py    the record as it is; a damaged one is set aside, said and
                                         replaced. The learner's own files are bytes of any kind
    text          training/corpus.py     every character of every UTF-8 file below --text, others
                                         counted as skipped
    docstrings    training/corpus.py     a library's docstrings; modules that Python cannot parse
                                         are passed over

What else the package reads is not a stranger's: its own files (skeletons, templates, book/records,
the shipped model by the readers above), the machine's memory limit below /sys/fs/cgroup, and the
answer on a pipe of a process that it started to examine a learner's file, which may run any code
anyway. There is no reader of demonstrations for fine-tuning: they are made, not read.

Paths
-----
A name *in* a file never leaves the folder: in an index it is letters, digits, `.`, `_`, `-`, 200 at
most, before `.safetensors`, so that `../x`, `/x`, `C:\x`, `x/` and a NUL are refused before
anything is looked up. A symbolic link *in place of* a file is followed: whoever put it into the
folder could have put the file there, and a snapshot in Hugging Face's cache is nothing but links to
`../../blobs/…`. What a link leads to must be a regular file: a pipe or /dev/zero is refused, not
waited for. run.json and job.json name a user's texts and model on purpose; reading them opens
neither. `recover_directory` locks the folder's parent and looks there for what a killed save of
this very folder left, `.NAME.….tmp` and `.NAME.….old`. guard.py watches every open, listing,
renaming and removal of every case by an audit hook.

Memory
------
Reading n bytes takes at most 40 n + 1 MiB as `tracemalloc` counts it (JSON such as `[[]],[[]],…` is
36 n once Python has made lists of it; traces 50 n, since they are listed twice). A page of a report
and Python's syntax trees take up to 400 n. Nothing is allocated for a claim: test_memory.py reads
configurations of 10¹⁸ parameters and headers of 2⁶³ bytes in a process that may have 100 MB.
"""
