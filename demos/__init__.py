"""What is shown and measured: `python -m demos.NAME`, each with `--help`.

A console without the letter γ shows a ? in its place, as the command line does.
"""

import io
import sys

for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):
        _stream.reconfigure(errors="replace")
