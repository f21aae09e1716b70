"""How busy the machine is: limits of time are those of one that does nothing else."""

import time

CPU = 0.15  # seconds of work that are looked at


def pace() -> float:
    """How many times longer than alone a process takes now, for want of processors: 1.0 where it has one for itself."""
    wall, cpu = time.perf_counter(), time.process_time()
    number = 0
    while time.process_time() - cpu < CPU:
        number += sum(range(2000))
    return max(1.0, (time.perf_counter() - wall) / (time.process_time() - cpu))


def within(limit: float) -> float:
    """A limit of time, as long as the machine is busy."""
    return limit * pace()
