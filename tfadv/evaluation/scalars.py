import pathlib

from tfadv import distributed, event_files


def write_scalars(directory, results, step):
    """Writes results to TensorBoard, at a step; rank 0 alone writes.

    They become the scalars `robust_accuracy/pgd10` and `attack_success/pgd10` for each number of
    steps, and `robust_accuracy/clean`, of the run `{directory}`; those of the clean branch of a
    mixture of `{directory}/clean`. Results of other steps stay, and of this one are replaced.

    Args:
        directory: String or path.
        results: List of `Result`.
        step: Integer, the number of updates that the model was trained for.
    """
    if distributed.rank() != 0:
        return
    runs = {}
    for result in results:
        run = pathlib.Path(directory, "clean" if result.domain == "clean" else "")
        scalars = runs.setdefault(run, {})
        scalars[f"robust_accuracy/{result.key}"] = result.accuracy
        if result.success is not None:
            scalars[f"attack_success/{result.key}"] = result.success
    for run, scalars in runs.items():
        before = list(run.glob("events.out.tfevents.*"))
        found = event_files.read_scalars(run)
        found[step] = found.get(step, {}) | scalars
        # All of it once more, in order: a checkpoint may be evaluated after a later one, and what
        # TensorBoard reads of a step strikes out later ones that it read before.
        file = event_files.EventFile(run, -1)
        for at, values in sorted(found.items()):
            for tag, value in values.items():
                file.scalar(tag, value, at)
        file.close()
        for path in before:
            path.unlink()
