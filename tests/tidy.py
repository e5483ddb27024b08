"""`python -m tests.tidy FILE…`: what every file of the repository must be, for pre-commit.

Text is UTF-8, its lines end in LF without blanks before, the last one too; no file is large, and
none has marks of a merge. What a program wrote (weights, JSON) is as the program wrote it.
"""

import sys
from pathlib import Path

LARGEST = 1_000_000  # bytes; the shipped weights are the exception


def faults(name: str, data: bytes) -> list[str]:
    """What is wrong with a file of that name and content, one phrase each."""
    if name.endswith(".safetensors"):
        return []
    found = ["larger than a megabyte"] if len(data) > LARGEST else []
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return [*found, "not UTF-8"]
    lines = text.split("\n")
    if "\r" in text:
        found.append("a line ends in CR LF")
    if any(line != line.rstrip(" \t\r") for line in lines):
        found.append("blanks at the end of a line")
    last = lines[-2:]  # of a file that is in order: its last line, and nothing
    if text and not name.endswith(".json") and (last[-1] or not last[0].strip()):
        found.append("it does not end in exactly one line end")
    if any(line.startswith(("<" * 7 + " ", ">" * 7 + " ")) for line in lines):
        found.append("marks of a merge")
    return found


def main(names: list[str]) -> int:
    """Names what is wrong; the number of such files, at most 1."""
    bad = {name: found for name in names if (found := faults(name, Path(name).read_bytes()))}
    for name, found in bad.items():
        print(f"{name}: {'; '.join(found)}")
    return min(1, len(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
