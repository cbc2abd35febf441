"""A processor that is slow on purpose, for tests of what shows it."""

import time

from fabric import node
from fabric.node import Runtime
from fabric.records import Rows
from fabric.topology import ProcessorSettings
from nodes.nbbo import Nbbo

STEP_S = 0.7


class Slow(Nbbo):
    """As its parent, but each step takes `STEP_S`."""

    def step(self, batch: Rows, now_ns: int) -> Rows:
        time.sleep(STEP_S)
        return super().step(batch, now_ns)


def nbbo(runtime: Runtime) -> None:
    settings, limits, own = runtime.spec.settings, runtime.topology.limits, runtime.spec.publishes
    assert isinstance(settings, ProcessorSettings)
    assert own is not None
    publishers = tuple(source.publisher.venues for source in runtime.spec.reads)
    processor = Slow(limits.symbols_max, settings.venues, publishers, limits.batch_max, settings.market, own.channels)
    node.run(processor, runtime.inbox(), runtime.outbox(), runtime)
