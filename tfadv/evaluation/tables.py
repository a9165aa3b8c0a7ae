def table(results):
    """Sets results out as text: a row for each number of steps, columns for each branch.

    Accuracies in percent with their 95% Wilson intervals, attack success in percent, and below
    them the protocol that they belong to.

    Args:
        results: List of `Result`, of one evaluation.

    Returns:
        String of several lines.

    Raises:
        ValueError: If there are no results, or two for one cell, or they differ in protocol.
    """
    cells = {(result.num_steps, result.domain): result for result in results}
    if not cells or len(cells) < len(results):
        raise ValueError(
            "results must be at least one, and one for each branch and number of steps; "
            f"received {len(results)} for {len(cells)} of these"
        )
    domains = list(dict.fromkeys(result.domain for result in results))
    numbers = sorted({result.num_steps for result in results})
    names = {result.num_steps: result.name for result in results}
    margin = max(map(len, names.values())) + 2
    lines = []
    if domains != [None]:
        heads = (f"{domain} branch" if domain else "no branches" for domain in domains)
        lines.append(" " * margin + "  ".join(f"{head:<{_WIDTH}}" for head in heads))
    head = f"{'accuracy [95%]':<20}  success"
    lines.append(" " * margin + "  ".join([head] * len(domains)))
    for number in numbers:
        row = "  ".join(_cell(cells.get((number, domain))) for domain in domains)
        lines.append(f"{names[number]:<{margin}}{row}")
    return "\n".join([line.rstrip() for line in lines] + ["", _protocol(results)])


_WIDTH = 20 + 2 + 7


def _cell(result):
    if result is None:
        return " " * _WIDTH
    low, high = (f"{100 * share:.1f}" for share in result.interval)
    accuracy = f"{100 * result.accuracy:5.1f} [{low}, {high}]"
    success = "" if result.success is None else f"{100 * result.success:.1f}"
    return f"{accuracy:<20}  {success:>7}"


def _protocol(results):
    def the(name, among):
        values = {getattr(result, name) for result in among}
        if len(values) > 1:
            raise ValueError(f"results must have one protocol; received {name} of {sorted(values)}")
        return values.pop()

    counted = f"{the('total', results)} images, seed {the('seed', results)}"
    attacked = [result for result in results if result.num_steps]
    if not attacked:
        return f"percent; no attack, {counted}"
    sizes = {}
    for result in attacked:
        sizes.setdefault(f"{result.step_size:g}", {})[str(result.num_steps)] = None
    if len(sizes) == 1:
        step_size = next(iter(sizes))
    else:
        step_size = ", ".join(f"{size} (PGD-{', '.join(n)})" for size, n in sizes.items())
    rule = {"pipeline": "raised to epsilon/steps where larger", "fixed": "fixed"}
    precision = the("precision", attacked)
    chance = the("start_from_clean", attacked)
    start = {0: "random in the ball", 1: "the image"}.get(
        chance, f"random in the ball, the image with probability {chance:g}"
    )
    if chance < 1 and the("clip_start", attacked):
        start = start.replace("in the ball", "in the ball and clipped to the range")
    return "; ".join(
        [
            f"percent; {'targeted' if the('targeted', attacked) else 'untargeted'} PGD in "
            f"L-infinity: epsilon {the('epsilon', attacked):g} of 255",
            f"step size {step_size}, {rule[the('step_size_rule', attacked)]}",
            f"start {start}",
            f"restarts {the('restarts', attacked)}",
            f"loss {the('loss', attacked)}",
            *([f"attacked in {precision}"] if precision not in (None, "float32") else []),
            counted,
        ]
    )
