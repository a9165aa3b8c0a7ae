"""Runs benchmarks, each in its own process: `python -m benchmarks [NAME ...] [--quick]`."""

import subprocess
import sys

from benchmarks.performance import BENCHMARKS


def main(arguments):
    names = [word for word in arguments if not word.startswith("-")]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"benchmarks: {unknown[0]} must be one of {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    options = [word for word in arguments if word.startswith("-")]
    failed = [
        name
        for name in names or BENCHMARKS
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options]).returncode
    ]
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
