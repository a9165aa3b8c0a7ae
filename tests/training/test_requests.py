import tensorflow as tf

from tfadv.training.requests import Requests


def test_workers_agree_on_what_any_of_them_asks():
    workers = [Requests("stop", "checkpoint") for _ in range(3)]

    def step():
        mean = tf.add_n([worker.asked for worker in workers]) / len(workers)
        for worker in workers:
            worker.agree(mean)

    step()
    assert not any(worker.agreed("stop") or worker.agreed("checkpoint") for worker in workers)
    workers[1].ask("checkpoint")
    assert not workers[1].agreed("checkpoint")  # not before the step
    step()
    assert all(worker.agreed("checkpoint") for worker in workers)
    # Once: neither at the next look nor after the next step.
    assert not any(worker.agreed("checkpoint") for worker in workers)
    step()
    assert not any(worker.agreed("checkpoint") or worker.agreed("stop") for worker in workers)
    workers[0].ask("stop")
    workers[2].ask("stop")
    workers[2].ask("checkpoint")
    step()
    assert all(worker.agreed("stop") and worker.agreed("checkpoint") for worker in workers)
