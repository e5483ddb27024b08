"""`python -m tests.mutate`: plant mutants, run their tests, say which survive."""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from tests.mutate import children, sites
from tests.mutate.covering import collect
from tests.mutate.equivalent import EQUIVALENT, Equivalent, reason
from tests.mutate.results import Results, table
from tests.mutate.runner import verdicts
from tests.mutate.sites import FRACTION, ROOT, TARGETS, Site


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    p.add_argument("--every", action="store_true", help="all sites, not an eighth of them")
    p.add_argument("--sample", type=int, metavar="N", help="N of the full run's mutants")
    p.add_argument("--only", metavar="PATH[:LINE]", help="every site of one file, or of one line")
    p.add_argument("--dir", type=Path, default=Path("runs/mutate"), help="verdicts and lines kept")
    p.add_argument("--processes", type=int, default=2)
    return p


def chosen(options: argparse.Namespace, root: Path, targets: tuple[str, ...]) -> list[Site]:
    """The sites that the command line asks for."""
    if options.only:
        file, _, line = options.only.partition(":")
        found = sites.sites_of(file, root)
        return [s for s in found if not line or s.line == int(line)]
    found = [s for file in sites.target_files(root, targets) for s in sites.sites_of(file, root)]
    if options.every:
        return found
    found = sites.selection(found, FRACTION)
    return sites.sample(found, options.sample) if options.sample else found


def run(
    options: argparse.Namespace,
    root: Path = ROOT,
    package: str = "minideepseek",
    targets: tuple[str, ...] = TARGETS,
    equivalents: tuple[Equivalent, ...] = EQUIVALENT,
) -> int:
    """Judge the mutants asked for and print the table; 1 if one survives that is not listed."""
    began, todo = time.monotonic(), chosen(options, root, targets)
    folder = root / options.dir
    files = sites.target_files(root, targets)
    covering = collect(root, package, files, folder, options.processes)
    results, fates, open_sites = Results(folder / "results.jsonl", covering), {}, []
    for site in sorted(todo, key=lambda s: s.draw):
        if reason(site, equivalents):
            fates[site] = "equivalent"
        elif (verdict := results.get(site)) is not None:
            fates[site] = "killed" if verdict.killed else "survived"
        else:
            open_sites.append(site)
    print(f"{len(todo)} mutants, {len(fates)} of them known or equivalent", flush=True)
    cpu = 0.0
    for site, verdict in verdicts(open_sites, covering, folder, options.processes):
        results.add(site, verdict)
        fates[site], cpu = "killed" if verdict.killed else "survived", cpu + verdict.cpu
        if not verdict.killed:
            print(f"survived  {site}", flush=True)
        if len(fates) % 20 == 0:
            count = Counter(fates.values())
            print(f"{len(fates)} of {len(todo)}: {count['killed']} killed, {count['survived']} "
                  f"survived, {(time.monotonic() - began) / 60:.0f} min", flush=True)  # fmt: skip
    fates |= dict.fromkeys((s for s in todo if s not in fates), "survived")  # not judged
    report(todo, fates, results)
    wall = time.monotonic() - began
    print(f"{wall:.0f} s, {cpu:.0f} s of CPU time for {len(open_sites)} mutants")
    return int("survived" in fates.values())


def report(todo: list[Site], fates: dict[Site, str], results: Results) -> None:
    """How mutants died, the table, and every survivor."""
    ways = Counter(v.how for s in todo if fates[s] == "killed" and (v := results.get(s)))
    print("\nkilled by " + ", ".join(f"{how} {n}" for how, n in ways.most_common()) + "\n")
    print(table((site, fates[site]) for site in todo))
    survivors = [s for s in todo if fates[s] == "survived"]
    print("\n" + "".join(f"survived  {s}\n" for s in survivors))


if __name__ == "__main__":
    children.warm_up()
    sys.exit(run(parser().parse_args()))
