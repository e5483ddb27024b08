"""Every figure that the README and the docstrings print, printed again.

    python -m tests.replay [--medium] [--all] [--only NAME…] [--list] [--outputs DIR] [--record]

An entry says in which file a figure stands, by the words around it; which command prints it; by
which words it is found in what the command prints; and how far the two may be apart (`bands`). The
figure itself is in no entry: it is read from the text. An edit of the words around a figure, or a
row of a table without an entry, is a failing test; another figure is compared with what is printed.

    templates    the little language of both: words, and {} where a number stands
    bands        how far apart two numbers may be, and why
    commands     what is run, what it costs and what it needs
    readme, tables, precision, docstrings, claims   the entries
    prose        finds measured numbers in docstrings that name no command
    options      whether a command exists, without running it
    ledger       date and commit of the last replay of each command: replayed.json
"""
