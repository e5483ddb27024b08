"""The command: see the package."""

import argparse
import sys
import time

from tests.faults import disk

SHOWN = 20  # violations of a scenario


def main() -> int:
    """Run what is asked for; 1 if there is a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="scenarios whose names hold one of these (all)")
    parser.add_argument("--stride", type=int, default=1, help="every so many-th call only (1)")
    faults = [fault.name for fault in disk.FAULTS] + ["power cut"]
    parser.add_argument("--fault", choices=faults, help="this one alone (all)")
    options = parser.parse_args()
    if why := disk.why_not():
        print(f"skipped: {why}")
        return 0
    if not disk.loaded():
        disk.begin_again(sys.argv[1:])
    disk.forget_library()
    from tests.faults import runner, runs, scenarios

    results, began = [], time.process_time()
    for scenario in (*scenarios.SCENARIOS, *runs.RUNS):
        if not options.names or any(word in scenario.name for word in options.names):
            results.append(runner.run(scenario, options.stride, options.fault))
            print(runner.table(results[-1:]).splitlines()[1], flush=True)
            for violation in results[-1].violations[:SHOWN]:
                print(f"   {violation}", flush=True)
    print(f"\n{runner.table(results)}")
    print(f"{time.process_time() - began:.0f} s of this process")
    return 1 if any(result.violations for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
