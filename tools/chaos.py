"""Kills a training on two workers again and again, resumes it, and compares what comes out.

    make chaos                                   (ARGS="--seed=1 --each=2" for others, fewer)
    python tools/chaos.py [--seed=0] [--each=5] [--others=8] [--output=FILE]

A small training is run once undisturbed. Then the same training is started, killed with -9 and
resumed, until it has come to its end; and again, until all kills of the plan are spent: `each`
inside an attack, an all-reduce, the writing of a checkpoint, its renaming, an epoch's end and the
switch to running statistics, and `others` at random moments, of one worker or of all. Each time the
weights, the optimizer, the log and TensorBoard must be those of the undisturbed run. The workers
are real, under horovodrun; tools/chaos_worker.py is tfadv.train and a way to kill it in time.
"""

import argparse
import dataclasses
import datetime
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import chaos_plan
from chaos_start import ROOT, WORKERS, ChaosError, start

EPOCHS, STEPS, LAST_EPOCHS = 5, 4, 2

# Mixture batch normalization, evaluations in training, running statistics in the last epochs, and
# a checkpoint within an epoch whenever a fifth of a second has passed.
FLAGS = f"""
    --dataset=digits --network=small_resnet --depth=8 --width=4 --norm=mbn
    --epsilon=80 --step_size=10 --num_steps=2 --epochs={EPOCHS} --steps_per_epoch={STEPS}
    --running_statistics={LAST_EPOCHS} --batch_size=8 --images_per_worker=4
    --learning_rate=2 --warmup_epochs=0 --decay_epochs=3 --eval_num_steps=10 --eval_every=1
    --eval_limit=10 --strong_eval_num_steps= --image_pairs=1 --checkpoint_minutes=0.003
""".split()

CONTINUED = re.compile(r", continued after (?:epoch (\d+))?(?: and )?(?:(\d+) updates)?")
CHECKPOINT = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.keras")


def progress(directory):
    """(finished epochs, updates of the next) of the newest checkpoint."""
    found = [(0, 0)]
    for path in Path(directory, "checkpoints").glob("epoch-*.keras"):
        match = CHECKPOINT.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2] or 0)))
    return max(found)


def disturb(directory, kills, flags=FLAGS, switch=EPOCHS - LAST_EPOCHS, say=print, **options):
    """Brings one run to its end through kills, which it takes out of a list.

    Args:
        directory: Of the run, new.
        kills: List of `Kill`; what the run does not come to stays in it.
        flags: Of the program.
        switch: Which epoch, from 0, is the first on running statistics.
        say: Function of a line of text.
        **options: Of `start`.

    Returns:
        A list of dictionaries, one for each kill.

    Raises:
        ChaosError: If the run ends otherwise than well or killed.
    """
    done, before = [], None  # before: what the last kill left
    steps = int(next(flag for flag in flags if "steps_per_epoch" in flag).partition("=")[2])
    while True:
        here = progress(directory)
        kill = chaos_plan.choose(kills, *here, switch)
        found = start(directory, flags, kill, **options)
        match = CONTINUED.search(found.output)
        if match or "run:  " in found.output:  # else it was killed before it said so
            epochs, updates = (int(n or 0) for n in match.groups()) if match else (0, 0)
            if before is not None:
                before["lost_epochs"] = max(0, before["finished_epochs"] - epochs)
                again = before["updates"] - (epochs * steps + updates)
                before["updates_again"] = max(0, again)
            before = None
        if found.killed:
            after = progress(directory)
            entry = {
                **dataclasses.asdict(kill),
                "finished_epochs": after[0],
                "updates": found.updates if found.updates is not None else 0,
                "ended_after": round(found.ended, 2),
                "seconds": round(found.seconds, 1),
            }
            done.append(entry)
            if before is None or entry["updates"]:
                before = entry
            who = "all workers" if kill.all else f"worker {kill.rank}"
            say(
                f"{len(done):3}  {kill.kind}, {kill.moment}: {who} after update "
                f"{found.updates}, {found.seconds:.0f} s; checkpoint: epoch {after[0]} and "
                f"{after[1]} updates"
            )
            continue
        if found.status:
            raise ChaosError(f"status {found.status} behind {kill}:\n{found.output[-4000:]}")
        if kill is not None:
            kills.append(kill)
        say(f"     the run came to its end, {found.seconds:.0f} s")
        return done


def undisturbed(directory, flags=FLAGS, **options):
    """Makes the run to compare with; returns the scale that `start` takes."""
    found = start(directory, flags, **options)
    if found.status:
        raise ChaosError(f"status {found.status} of the undisturbed run:\n{found.output[-4000:]}")
    return found.begun, found.seconds - found.begun


def report(kills, compared, seconds):
    """Everything to report of a chaos, as a dictionary."""
    kinds = {}
    for kill in kills:
        row = kinds.setdefault(kill["kind"], {"kills": 0, "one": 0, "all": 0, "moments": {}})
        row["kills"] += 1
        row["all" if kill["all"] else "one"] += 1
        row["moments"][kill["moment"]] = row["moments"].get(kill["moment"], 0) + 1
    return {
        "date": datetime.date.today().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "workers": WORKERS,
        "kills": len(kills),
        "by_kind": kinds,
        "runs": len(compared),
        "resumes": len(kills),
        "lost_epochs": sum(kill.get("lost_epochs", 0) for kill in kills),
        "updates_done_again": sum(kill.get("updates_again", 0) for kill in kills),
        "longest_end_of_other_workers_seconds": max(
            (kill["ended_after"] for kill in kills if not kill["all"]), default=0.0
        ),
        "compared_bits": sum(each["bits"] for each in compared),
        "differing_bits": sum(each["differing_bits"] for each in compared),
        "log_lines": sum(each["log_lines"] for each in compared),
        "tensorboard_points": sum(each["points"] for each in compared),
        "differences": [text for each in compared for text in each["differences"]],
        "seconds": round(seconds),
        "each": kills,
    }


def table(result):
    """The report as Markdown."""
    lines = ["| killed in | kills | one worker | all workers |", "|---|---|---|---|"]
    lines += [
        f"| {kind} ({', '.join(f'{n} {moment}' for moment, n in row['moments'].items())}) | "
        f"{row['kills']} | {row['one']} | {row['all']} |"
        for kind, row in result["by_kind"].items()
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"{result['kills']} kills, {result['resumes']} resumes, {result['runs']} runs; "
            f"lost epochs: {result['lost_epochs']}; updates done again: "
            f"{result['updates_done_again']}",
            f"differing bits: {result['differing_bits']} of {result['compared_bits']:,}; "
            f"other differences in {result['log_lines']} lines of the logs and "
            f"{result['tensorboard_points']:,} points of TensorBoard: {len(result['differences'])}",
            "where one worker was killed, the others ended within "
            f"{result['longest_end_of_other_workers_seconds']:.1f} s",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--each", type=int, default=5, help="kills of every kind")
    parser.add_argument("--others", type=int, default=8, help="kills at random moments")
    parser.add_argument("--output", default=ROOT / "benchmarks/results/chaos.json", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so end what we started
    import chaos_compare  # behind the flags: it is slow to import

    began, kills = time.time(), chaos_plan.plan(options.seed, options.each, options.others)
    done, compared = [], []
    with tempfile.TemporaryDirectory(prefix="tfadv-chaos-") as name:
        expected = Path(name, "undisturbed")
        scale = undisturbed(expected)
        print(f"undisturbed: {scale[0]:.0f} s to start, {scale[1]:.0f} s to train", flush=True)
        while kills:
            run = Path(name, f"run-{len(compared)}")
            done += disturb(run, kills, scale=scale, say=lambda text: print(text, flush=True))
            compared.append(chaos_compare.compare(run, expected))
            for text in compared[-1]["differences"]:
                print(f"     {text}", flush=True)
            shutil.rmtree(run)
    result = report(done, compared, time.time() - began)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    wrong = result["differences"] or result["lost_epochs"] or result["differing_bits"]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
