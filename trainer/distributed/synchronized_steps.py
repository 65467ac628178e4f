"""Training steps of several processes, of which only the main process decides when to stop and at which rates."""

from collections.abc import Generator

from trainer.distributed.processes import Processes
from trainer.distributed.sharded_base import Base
from trainer.loop import Step, Trainer


def synchronized_steps(trainer: Trainer, processes: Processes, base: Base) -> Generator[Step, None, None]:
    """Yield the trainer's steps. After each step all ranks adopt the main process's last step and learning rates.

    The main process may do other work between two steps, and may stop early by closing the generator: the other ranks
    then stop too. Before, between and after the steps `base` is in main-only mode.
    """
    if processes.is_single:
        yield from trainer.steps()
        return
    base.end_main_only()
    for step in trainer.steps():
        base.begin_main_only()
        try:
            yield step
        except GeneratorExit:
            if processes.is_main:
                base.end_main_only()
                _adopt_decisions(trainer, processes, trainer.step)
                base.begin_main_only()
            raise
        base.end_main_only()
        _adopt_decisions(trainer, processes, trainer.max_train_steps)
    base.begin_main_only()


def _adopt_decisions(trainer: Trainer, processes: Processes, end: int) -> None:
    decisions = processes.broadcast_numbers([end, *(trainable.rate_factor for trainable in trainer.trainables)])
    if processes.is_main:
        return
    if int(decisions[0]) != trainer.max_train_steps:
        trainer.end_at(int(decisions[0]))
    for trainable, factor in zip(trainer.trainables, decisions[1:], strict=True):
        if factor != trainable.rate_factor:
            trainable.scale_rate(factor / trainable.rate_factor)
