"""Hook that saves checkpoints safely, so that a training can be killed at any moment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, broadcast, broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checks import checked, either, filled_text, flag, natural, one_of, optional, sequence
from ...whole_files import remove_leftovers, whole_file
from ..checkpoint_hooks import check_saving, check_template
from ..optimizer_states import check_fused_states, check_groups, check_schedulers, warn_of_missing
from ..pending_gradients import load_gradients, save_gradients, share_gradients
from ..published_copies import write_published_copy
from ..reach import trained_models
from ..resuming import check_named, own_names, point_to_whole, validation_follows, write_pointer
from .require_checkpoint import check_fit, is_training
from .temperature import binary_share

#: Entries of the message hub. Every checkpoint holds them.
_LAST, _KEPT, _OUTDATED = 'last_ckpt', 'keep_ckpt_ids', 'outdated_ckpts'
_BETTER = one_of('greater', 'less')


def _as_list(value: Any) -> Any:
    """Convert a tuple to a list, which mmengine needs; return anything else unchanged."""
    return list(value) if isinstance(value, tuple) else value


def _check_names(save_best: Any, rule: Any) -> None:
    """Check that ``save_best`` and ``rule`` match."""
    names = save_best if isinstance(save_best, list) else [save_best]
    if len(set(names)) < len(names) or ('auto' in names and len(names) > 1):
        raise ValueError(f"save_best={save_best!r} must name different metrics, or be 'auto'")
    if isinstance(rule, list) and len(rule) not in (1, len(names)):
        raise ValueError(f'rule={rule!r} must have one entry, or one for each metric')


def _share_buffers(runner: Runner) -> None:
    """Give all processes the running statistics of the first process, which are saved.

    Otherwise the processes would continue with their own statistics, but resumed processes
    with those of the first one, and would validate different networks.
    """
    for model in trained_models(runner):
        for buffer in model.buffers():
            if buffer.is_floating_point():
                broadcast(buffer, src=0)


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """Hook that saves checkpoints as mmengine's ``CheckpointHook``, but never loses one.

    The process can end at any moment. With ``resume=True`` the training then continues and
    ends with the numbers of an uninterrupted training:

    - Files are written next to their place, flushed to the disk, and renamed. Then
      ``last_checkpoint`` is changed to the new file. After that old files are removed.
    - The best checkpoint has its own file. mmengine writes the newest checkpoint again to
      store the new score; this hook does not. Instead, a resumed training first validates
      the resumed checkpoint, if a validation follows that checkpoint or found that it is the
      best. An old best file stays until a whole checkpoint holds the name of the new one.
    - If ``last_checkpoint`` is missing, or names a file that is missing or damaged,
      ``resume=True`` continues from the newest whole checkpoint, and the log says so.
    - A checkpoint within a gradient accumulation (``accumulative_counts``) holds the gradients.
      mmengine loses them, and warns of this here, too.
    - Partial files of a killed process are removed.

    A binary network is always better than one that is not binary (see
    :class:`~mmesbnn.engine.hooks.TemperatureHook`). Until the first binary network the
    hook keeps the best of the others. The first binary network replaces it, even with a
    lower score.

    Args:
        interval: Number of epochs or iterations between two checkpoints. Default -1: only
            the last checkpoint is saved.
        by_epoch: Whether ``interval`` counts epochs. If not, it counts iterations. A warning
            says so if the training does not count the same. Default True.
        max_keep_ckpts: Number of checkpoints to keep in addition to the best ones. Default
            -1: all.
        save_best: Metric, or list of metrics, whose best checkpoint is kept; 'auto' is
            the first metric that is measured. Default None.
        rule: 'greater' or 'less', or a list of these: the better direction of each metric
            of ``save_best``. Default None: it follows from the name of the metric.
        filename_tmpl: File name with ``{}`` in place of the number. Default
            ``epoch_{}.pth`` or ``iter_{}.pth``.
        out_dir: Folder on a local disk. The checkpoints go to a folder in it with the name
            of the work dir. Default None: the work dir itself.
        kwargs: ``save_optimizer``, ``save_param_scheduler``, ``save_last``,
            ``save_begin``, ``greater_keys``, ``less_keys``, ``published_keys``, all as in
            ``CheckpointHook``.

    Raises:
        TypeError: If an argument is unknown.
        ValueError: If an argument is not one of the allowed values; before training, if
            ``out_dir`` is a URL, the runner is not mmengine's ``Runner``, the folder's name is
            not text, another checkpoint hook has the same files or record of the best
            score, or a resumed checkpoint does not fit the model; after a validation that did
            not measure a metric of ``save_best``.
    """

    @checked(
        save_best=optional(either(filled_text, sequence(filled_text, shortest=1))),
        rule=optional(either(_BETTER, sequence(_BETTER, shortest=1))),
        save_begin=natural,
        save_optimizer=flag,
        save_param_scheduler=flag,
        save_last=flag,
    )
    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        max_keep_ckpts: int = -1,
        save_best: str | list[str] | None = None,
        rule: str | list[str] | None = None,
        filename_tmpl: str | None = None,
        out_dir: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        check_template(filename_tmpl)
        save_best, rule = _as_list(save_best), _as_list(rule)
        _check_names(save_best, rule)
        super().__init__(
            interval=interval,
            by_epoch=by_epoch,
            max_keep_ckpts=max_keep_ckpts,
            save_best=save_best,
            rule=rule,
            filename_tmpl=filename_tmpl,
            **kwargs,
        )
        unknown = list(self.args)
        unknown += [n for n in ('backend_args', 'file_client_args') if getattr(self, n)]
        if unknown:
            raise TypeError(f'WholeCheckpointHook has no argument {unknown[0]!r}')
        if out_dir is not None and '://' in str(out_dir):
            raise ValueError(
                f'out_dir={str(out_dir)!r} must be a folder: use CheckpointHook of '
                'mmengine for a store'
            )
        self._parent = out_dir
        #: Best files that the newest checkpoint still names as the best.
        self._superseded: list[str] = []

    # beginning of a resumed training

    def before_run(self, runner: Runner) -> None:
        """Make ``last_checkpoint`` name a whole checkpoint before resuming."""
        if not isinstance(runner, Runner):
            raise ValueError(
                f'WholeCheckpointHook: the runner is a {type(runner).__name__}: use '
                "mmengine's CheckpointHook with it"
            )
        work_dir = Path(runner.work_dir)
        folder = work_dir if self._parent is None else Path(self._parent, work_dir.name)
        self.out_dir = str(folder)
        if not runner._resume:
            return
        if runner._load_from is not None:
            check_named(runner._load_from)
            return
        if is_main_process():
            found = point_to_whole(work_dir, folder, self.filename_tmpl)
            if found.path is None:
                runner.logger.warning(
                    f'WholeCheckpointHook: there is nothing to resume in {folder} '
                    f'({found.reason}): the training starts from the beginning'
                )
            elif found.reason is not None:
                runner.logger.warning(
                    f'WholeCheckpointHook: {found.reason}: the training continues from '
                    f'the newest whole checkpoint, {found.path}'
                )
        barrier()  # the other processes read the file

    def before_train(self, runner: Runner) -> None:
        """Restore the records, and run the validation that the last process may have missed.

        This hook is the last of all hooks, so that the others are ready for the validation.
        """
        check_saving(self, runner)
        check_groups(runner.optim_wrapper)
        check_fused_states(runner.optim_wrapper)
        runner.logger.info(f'Checkpoints will be saved to {self.out_dir}.')
        if is_main_process():
            Path(self.out_dir).mkdir(parents=True, exist_ok=True)
            for folder in {self.out_dir, runner.work_dir}:
                remove_leftovers(folder)
        again = [self._was_best(runner, key) for key in self._keys]
        if again:
            broadcast_object_list(again)  # all processes validate, or none
        self._take_up(runner, again)
        follows = validation_follows(runner, self.filename_tmpl)
        if follows or (any(again) and runner.val_loop is not None):
            runner.logger.info(
                'WholeCheckpointHook: validating the resumed checkpoint, because its '
                'training may have ended before the validation'
            )
            runner.val_loop.run()

    def _was_best(self, runner: Runner, key: str) -> bool:
        """Return True if a validation of the resumed checkpoint found that it is the best."""
        name = self._best_name(runner, '*' if key == 'auto' else key)
        return bool(self._step(runner)) and any(Path(self.out_dir).glob(name))

    def _take_up(self, runner: Runner, again: Sequence[bool]) -> None:
        """Restore the records of the resumed checkpoint, if it is in this folder.

        Args:
            runner: Runner that trains.
            again: Whether a validation finds the best checkpoint of each metric again.
        """
        hub = runner.message_hub
        last = self._own(hub.get_info(_LAST))
        here = last is not None and last.exists()
        self.last_ckpt = str(last) if here else None  # published if no other one follows
        kept, outdated = (hub.get_info(x, []) if here else [] for x in (_KEPT, _OUTDATED))
        ids = [x for x in kept if type(x) is int] if isinstance(kept, list) else []
        self.keep_ckpt_ids = [x for x in ids if self._path(self.filename_tmpl.format(x)).exists()]
        self._remove(runner, own_names(self.filename_tmpl, outdated))
        for key, is_again in zip(self._keys, again, strict=True):
            self._take_up_best(runner, key, here, is_again)

    def _take_up_best(self, runner: Runner, key: str, here: bool, again: bool) -> None:
        hub = runner.message_hub
        path = self._own(hub.get_info(self._entry('best_ckpt', key)))
        if path is None or not (here and path.exists()):
            if path is not None and not again:
                runner.logger.warning(
                    f'WholeCheckpointHook: {path}, the best checkpoint so far, is '
                    'missing: the next one counts as the best'
                )
            for name in ('best_ckpt', 'best_score', 'best_binary'):
                hub.runtime_info.pop(self._entry(name, key), None)
            path = None
        self._set_best(key, path)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check that a resumed training fits, and take up its accumulated gradients."""
        if runner._resume:
            check_fit(runner, checkpoint)  # mmengine prints what differs, and trains random weights
            check_schedulers(runner.param_schedulers, checkpoint)
            load_gradients(runner, checkpoint)
            warn_of_missing(runner, checkpoint)

    # writing

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the accumulated gradients."""
        save_gradients(runner, checkpoint)

    def _path(self, name: str) -> Path:
        return Path(self.out_dir, name)

    def _own(self, known: object) -> Path | None:
        """Return the path here of a checkpoint that was known by its path; None for others."""
        names = [Path(known).name] if isinstance(known, str) else None
        return next((self._path(x) for x in own_names(self.filename_tmpl, names)), None)

    def _write(self, runner: Runner, name: str, **options: Any) -> None:
        """Write a checkpoint completely or not at all."""
        if is_main_process():
            with whole_file(self._path(name)) as partial:
                runner.save_checkpoint(self.out_dir, partial.name, **options)

    def _remove(self, runner: Runner, names: Iterable[str]) -> None:
        if is_main_process():
            for name in names:
                self._path(name).unlink(missing_ok=True)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """Write the checkpoint of ``step``, then change the pointer, then remove old files."""
        name = self.filename_tmpl.format(step)
        kept = [number for number in self.keep_ckpt_ids if number != step] + [step]
        dropped = kept[: -self.max_keep_ckpts] if self.max_keep_ckpts > 0 else []
        self.keep_ckpt_ids = kept[len(dropped) :]
        outdated = [*map(self.filename_tmpl.format, dropped), *self._superseded]
        self.last_ckpt = str(self._path(name))
        _share_buffers(runner)
        share_gradients(runner)
        hub = runner.message_hub
        hub.update_info(_LAST, self.last_ckpt)
        hub.update_info(_KEPT, list(self.keep_ckpt_ids))
        # if the process dies before it removes them, the resumed process removes them
        hub.update_info(_OUTDATED, outdated)
        self._write(
            runner,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
        )
        if is_main_process():
            write_pointer(Path(runner.work_dir), self.last_ckpt)
        self._remove(runner, outdated)
        self._superseded = []

    # the best checkpoint

    @property
    def _keys(self) -> Sequence[str]:
        return self.key_indicators if self.save_best else ()

    def _entry(self, name: str, key: str) -> str:
        """Return the name in the message hub, as in mmengine."""
        return name if len(self.key_indicators) == 1 else f'{name}_{key}'

    def _best(self, key: str) -> str | None:
        if len(self.key_indicators) == 1:
            return self.best_ckpt_path
        return self.best_ckpt_path_dict.get(key)

    def _set_best(self, key: str, path: Path | None) -> None:
        value = None if path is None else str(path)
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = value
        elif value is not None:
            self.best_ckpt_path_dict[key] = value

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Keep the validated network if it is the best one of a training."""
        if not self.save_best or not is_training(runner):
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        binary = all(binary_share(model) == 1 for model in trained_models(runner))
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            if key not in metrics:
                raise ValueError(f'save_best={key!r} is none of the measured {", ".join(metrics)}')
            if self._is_better(runner, key, rule, metrics[key], binary):
                self._keep_best(runner, key, metrics[key], binary)

    def _is_better(
        self, runner: Runner, key: str, rule: str, score: float | None, binary: bool
    ) -> bool:
        """Return True if a network is better than the best one; binary ones are always better.

        A network whose score is none, or not a number, is never better.
        """
        if score is None or math.isnan(score):
            return False
        hub = runner.message_hub
        was_binary = hub.get_info(self._entry('best_binary', key), binary)
        if binary != was_binary:
            return binary
        before = hub.get_info(self._entry('best_score', key), self.init_value_map[rule])
        return self.is_better_than[key](score, before)

    def _step(self, runner: Runner) -> int:
        return runner.epoch if self.by_epoch else runner.iter

    def _best_name(self, runner: Runner, key: str) -> str:
        """Return the name of the file if this step is the best."""
        return f'best_{key}_{self.filename_tmpl.format(self._step(runner))}'.replace('/', '_')

    def _keep_best(self, runner: Runner, key: str, score: float, binary: bool) -> None:
        step, name = self._step(runner), self._best_name(runner, key)
        path, before, hub = self._path(name), self._best(key), runner.message_hub
        hub.update_info(self._entry('best_score', key), float(score))
        hub.update_info(self._entry('best_binary', key), binary)
        hub.update_info(self._entry('best_ckpt', key), str(path))
        self._set_best(key, path)
        self._write(
            runner,
            name,
            save_optimizer=False,
            save_param_scheduler=False,
            meta=dict(epoch=runner.epoch, iter=runner.iter),
            by_epoch=False,
        )
        if before is not None and Path(before) != path:
            self._superseded.append(Path(before).name)
        runner.logger.info(
            f'The best checkpoint with {score:0.4f} {key} at '
            f'{step} {"epoch" if self.by_epoch else "iter"} is saved to {name}'
            + ('.' if binary else ', with weights that are not binary yet.')
        )

    # end of the training

    def after_train(self, runner: Runner) -> None:
        """Remove files that only the last checkpoint needed; publish if asked for."""
        self._remove(runner, self._superseded)
        self._superseded = []
        super().after_train(runner)

    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """Write a copy of a checkpoint with ``published_keys`` only, if it has any."""
        if is_main_process():
            write_published_copy(ckpt_path, keys=self.published_keys, logger=runner.logger)
