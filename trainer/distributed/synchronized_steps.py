"""Steps that several processes take together, where only the first one decides how it goes on."""

from collections.abc import Generator

from trainer.distributed.processes import Processes
from trainer.distributed.sharded_base import Base
from trainer.loop import Step, Trainer


def lead(trainer: Trainer, processes: Processes, base: Base) -> Generator[Step, None, None]:
    """The trainer's steps. After each one all processes take over from the first where the run ends and at which rates.

    The first one may take its time between two steps, and may end early by closing this: the others end then too.
    Before, between and after the steps `base` is apart: the first one may run it alone.
    """
    if processes.alone:
        yield from trainer.steps()
        return
    base.together()
    for step in trainer.steps():
        base.apart()
        try:
            yield step
        except GeneratorExit:
            if processes.is_first:
                base.together()
                _tell(trainer, processes, trainer.step)
                base.apart()
            raise
        base.together()
        _tell(trainer, processes, trainer.max_train_steps)
    base.apart()


def _tell(trainer: Trainer, processes: Processes, end: int) -> None:
    told = processes.figures_of_first([end, *(trainable.rate_factor for trainable in trainer.trainables)])
    if processes.is_first:
        return
    if int(told[0]) != trainer.max_train_steps:
        trainer.end_at(int(told[0]))
    for trainable, factor in zip(trainer.trainables, told[1:], strict=True):
        if factor != trainable.rate_factor:
            trainable.scale_rate(factor / trainable.rate_factor)
