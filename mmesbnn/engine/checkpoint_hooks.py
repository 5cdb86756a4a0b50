"""Check that the checkpoint hooks of one training can save and do not disturb each other."""

from __future__ import annotations

import locale
from pathlib import Path

from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner


def check_template(filename_tmpl: str | None) -> None:
    """Raise a ``ValueError`` unless names of checkpoints can be made of ``filename_tmpl``."""
    if filename_tmpl is None:
        return
    rest = filename_tmpl.replace('{}', '', 1)
    if filename_tmpl.count('{}') != 1 or set('{}/') & set(rest):
        raise ValueError(
            f'filename_tmpl={filename_tmpl!r} must be a file name with one {{}}, the '
            'place of the number'
        )


def _best_records(hook: CheckpointHook) -> set[str]:
    """Return the names under which a hook records the best scores, as in mmengine."""
    keys = hook.key_indicators if hook.save_best else []
    return {'best_score'} if len(keys) == 1 else {f'best_score_{key}' for key in keys}


def _check_name(folder: str) -> None:
    """Check that ``last_checkpoint`` can name the files of a folder, as mmengine reads it."""
    encoding = locale.getpreferredencoding(False)
    try:
        folder.encode(encoding)
    except UnicodeError:
        raise ValueError(
            f'checkpoints cannot be saved in {folder!r}: last_checkpoint names them, so the name '
            f'must be text in {encoding}, the encoding of the locale'
        ) from None


def _warn_of_unit(hook: CheckpointHook, runner: Runner) -> None:
    """Warn if the hook counts epochs and the training does not, or the other way round."""
    reason = None
    if not hook.by_epoch and isinstance(runner.train_loop, EpochBasedTrainLoop):
        reason = (
            'counts epochs, and mmengine begins the epoch of a resumed checkpoint anew: a resumed '
            'training has more iterations than an uninterrupted one: set by_epoch=True'
        )
    elif hook.by_epoch and hook.interval > 0 and isinstance(runner.train_loop, IterBasedTrainLoop):
        reason = (
            'counts iterations (IterBasedTrainLoop) and is one epoch: there is no checkpoint '
            'before its end: set by_epoch=False'
        )
    if reason:
        runner.logger.warning(
            f'{type(hook).__name__}: by_epoch={hook.by_epoch}, but the training {reason}'
        )


def check_saving(hook: CheckpointHook, runner: Runner) -> None:
    """Check the folder of ``hook``, and that no other hook has its records or its files.

    What ``hook`` counts is checked, too: there is a warning if the training counts another unit.

    Args:
        hook: Checkpoint hook whose folder is known.
        runner: Runner with all hooks.

    Raises:
        ValueError: If another hook has, or if the folder's name is not text.
    """
    _check_name(hook.out_dir)
    _warn_of_unit(hook, runner)
    for other in runner.hooks:
        if other is hook or not isinstance(other, CheckpointHook):
            continue
        if _best_records(hook) & _best_records(other):
            raise ValueError(
                f'save_best={hook.save_best!r} and save_best={other.save_best!r} of two checkpoint '
                'hooks have one record of the best score: give one hook the list of metrics'
            )
        folders = {Path(x.out_dir or runner.work_dir) for x in (hook, other)}
        if len(folders) > 1 or hook.filename_tmpl != other.filename_tmpl:
            continue
        keep = max(hook.max_keep_ckpts, other.max_keep_ckpts)
        if keep > 0:
            raise ValueError(
                f'max_keep_ckpts={keep} would remove files of another checkpoint hook, as both '
                f'write {hook.filename_tmpl}: give one of them another filename_tmpl or out_dir'
            )
