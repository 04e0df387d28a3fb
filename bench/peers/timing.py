"""Timing of calls: of several ways to write the same, the fastest."""
import time

SLOW_SECONDS = 20.0  # a call slower than this is measured once


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def try_calls(calls):
    """{name: seconds}, of the faster of two calls, so that the first one's fresh memory does not count. One that takes several
    times as long as another is called once."""
    trials = {}
    for name, call in calls.items():
        first = timed(call)[0]
        hopeless = first > min([SLOW_SECONDS / 2] + [4 * other for other in trials.values()])
        trials[name] = first if hopeless else min(first, timed(call)[0])
    return trials


def measure(calls, trials, repetitions):
    """Times the fastest of {name: call} `repetitions` times. Returns its name and the times."""
    best = min(trials, key=trials.get)
    if trials[best] > SLOW_SECONDS / 2:
        return best, [trials[best]]
    repetitions = max(2, min(repetitions, int(SLOW_SECONDS / trials[best])))
    inner = max(1, min(100, int(0.02 / trials[best])))  # so short calls are not timed one by one

    def several():
        for _ in range(inner):
            calls[best]()
    return best, [timed(several)[0] / inner for _ in range(repetitions)]
