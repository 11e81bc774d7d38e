"""Does the A/A row do what it says? Its 95% interval must hold 1 in about 19 runs of 20.

    python tests/benchmarks/noise_floor.py [--runs 20] [--limit 60] [--model mini] [--output FILE]

Every run measures the baseline twice, with an order and questions' repeats of its own seed. Prints
and stores each run's ratio and interval, and how many intervals hold 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def one_run(seed, options, folder):
    output = Path(folder) / str(seed)
    command = [sys.executable, "-m", "cllm_bench", "run", "--method", "ar", "--task", "spider"]
    command += ["--limit", str(options.limit), "--model", options.model, "--seed", str(seed)]
    command += ["--device", options.device, "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    summaries = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    (again,) = [each["method"] for each in manifest["cells"] if each["again"]]
    (found,) = [each for each in summaries if each["method"] == again]
    low, high = found["speedup_ci"]
    figures = {
        "seed": seed,
        "ratio": found["speedup"],
        "interval": [low, high],
        "holds_1": low <= 1 <= high,
        "foreign_load": found["foreign_load"],
    }
    return figures, manifest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.runs):
            found, manifest = one_run(seed, options, folder)
            runs.append(found)
            low, high = found["interval"]
            mark = "" if found["holds_1"] else "  does not hold 1"
            print(f"run {seed}: {found['ratio']:.4f} [{low:.4f}, {high:.4f}]{mark}", flush=True)
    result = {
        "runs": len(runs),
        "holding_1": sum(run["holds_1"] for run in runs),
        "each": runs,
        "questions": options.limit,
        **{name: manifest[name] for name in ("machine", "versions", "git", "runtime", "created")},
    }
    text = json.dumps(result, indent=2)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
