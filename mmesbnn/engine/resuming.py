"""Search for the checkpoint from which a killed training continues, and its validation.

mmengine resumes from the checkpoint that the file ``last_checkpoint`` names. The functions
here first check this file. If needed, they make it name the newest checkpoint that can be
read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ..checkpoints import CheckpointError, read_checkpoint
from ..errors import sentence, shorten
from ..whole_files import whole_file
from .pending_gradients import ENTRY as PENDING

#: File in a work dir that names the checkpoint to resume.
POINTER = 'last_checkpoint'
#: Entries of a checkpoint that mmengine needs to resume it.
_NEEDED = ('meta', 'state_dict', 'message_hub')
#: Entries that must be dicts, if it has them.
_DICTS = (*_NEEDED, 'optimizer', 'ema_state_dict', PENDING)
#: Entries of its message hub, dicts whose keys are texts.
_HUB = ('log_scalars', 'runtime_info', 'resumed_keys')


class Found(NamedTuple):
    """State that a training can resume.

    Attributes:
        path: Newest whole checkpoint, None if there is none.
        reason: Reason why the pointer names another checkpoint, None if it names this one.
    """

    path: Path | None
    reason: str | None


def _why_not_usable(content: dict[str, Any]) -> str | None:
    """Return the reason why mmengine cannot use the entries of a checkpoint."""
    for key in _DICTS:
        if not isinstance(content.get(key, {}), dict):
            return f'its {key} is a {type(content[key]).__name__}, not a dict'
    for key in _HUB:
        part = content['message_hub'].get(key)
        if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
            return f'{key} in its message_hub is not a dict with texts as keys'
    meta = content['meta']
    if not {'epoch', 'iter'} <= set(meta):
        return 'it does not say of which epoch and iteration it is'
    for key in ('epoch', 'iter'):
        if type(meta[key]) is not int or not 0 <= meta[key] < 2**31:
            return f'{key}={shorten(repr(meta[key]), 40)} in its meta is not a number of steps'
    return None


def why_not_whole(path: Path) -> str | None:
    """Return the reason why a training cannot be resumed from ``path``, None if it can.

    The whole file is read, because after a power failure a disk may hold the length of a
    file but not its content.
    """
    try:
        content = read_checkpoint(path)
        if not isinstance(content, dict):
            return f'it holds a {type(content).__name__}, not a dict'
        missing = [key for key in _NEEDED if key not in content]
        if missing:
            return f'it lacks {", ".join(missing)}'
        return _why_not_usable(content)
    except Exception as error:
        return sentence(error)


def check_named(checkpoint: str) -> None:
    """Check a checkpoint that the user named, before a training is resumed from it.

    Args:
        checkpoint: Path of the checkpoint. An address with a scheme is not checked here,
            but by its loader.

    Raises:
        CheckpointError: If a training cannot be resumed from it.
    """
    if '://' in checkpoint:
        return
    reason = why_not_whole(Path(checkpoint).expanduser())
    if reason is not None:
        raise CheckpointError(
            f'resume={checkpoint}: it is not whole ({reason}); name another checkpoint, '
            'or resume without a name from the newest whole one'
        )


def numbered(template: str, name: str) -> int | None:
    """Return the number in a file's name, None if the name does not match ``template``.

    Args:
        template: Name with ``{}`` in place of the number, such as ``epoch_{}.pth``.
        name: Name of the file.
    """
    before, after = (re.escape(part) for part in template.split('{}'))
    match = re.fullmatch(f'{before}([0-9]+){after}', name)
    return int(match[1]) if match else None


def own_names(template: str, names: object) -> list[str]:
    """Return the names of a list that name checkpoints, or the best one of a metric.

    Args:
        template: Name of checkpoints with ``{}`` in place of the number.
        names: Value in a checkpoint. One from elsewhere can hold anything, such as a list of
            paths to other files.
    """
    before, after = (re.escape(part) for part in template.split('{}'))
    own = re.compile(rf'(best_[^/\\\0]+_)?{before}[0-9]+{after}')
    found = names if isinstance(names, list) else []
    return [name for name in found if isinstance(name, str) and own.fullmatch(name)]


def _newest_first(folder: Path, template: str) -> list[Path]:
    """Return the checkpoints of ``folder``, newest first; the number breaks ties of the time."""
    if not folder.is_dir():
        return []
    found = [
        (path.stat().st_mtime_ns, number, path)
        for path in folder.iterdir()
        if (number := numbered(template, path.name)) is not None and path.is_file()
    ]
    return [path for *_, path in sorted(found, reverse=True)]


def read_pointer(work_dir: Path) -> Path | None:
    """Return the file that the pointer of ``work_dir`` names, None without a pointer."""
    try:
        text = (work_dir / POINTER).read_text().strip()
    except (OSError, ValueError):
        return None
    return Path(text) if text else None


def write_pointer(work_dir: Path, checkpoint: str) -> None:
    """Make the pointer of ``work_dir`` name ``checkpoint``, in one step."""
    with whole_file(work_dir / POINTER) as partial:
        partial.write_text(checkpoint)


def find_whole(work_dir: Path, folder: Path, template: str) -> Found:
    """Find the checkpoint that the pointer names, or else the newest whole one.

    Args:
        work_dir: Folder of the pointer.
        folder: Folder of the checkpoints.
        template: Their name with ``{}`` in place of the number.
    """
    named = read_pointer(work_dir)
    reason = f'there is no {POINTER}'
    if named is not None:
        why = why_not_whole(named)
        if why is None:
            return Found(named, None)
        reason = f'{POINTER} names {named}, which is not whole ({why})'
    for path in _newest_first(folder, template):
        if path != named and why_not_whole(path) is None:
            return Found(path, reason)
    return Found(None, reason)


def point_to_whole(work_dir: Path, folder: Path, template: str) -> Found:
    """Make the pointer name a whole checkpoint, or remove it if there is none.

    Args:
        work_dir: Folder of the pointer.
        folder: Folder of the checkpoints.
        template: Their name with ``{}`` in place of the number.
    """
    found = find_whole(work_dir, folder, template)
    if found.path is None:
        (work_dir / POINTER).unlink(missing_ok=True)
    elif found.reason is not None:
        write_pointer(work_dir, str(found.path))
    return found


def validation_follows(runner: Runner, template: str) -> bool:
    """Return True if the training validates between the resumed checkpoint and the next step.

    Args:
        runner: Runner that trains.
        template: Name of checkpoints with ``{}`` in place of the number.
    """
    loop = runner.train_loop
    known = isinstance(loop, EpochBasedTrainLoop | IterBasedTrainLoop)
    if not known or runner.val_loop is None or not loop.iter:
        return False
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    step, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    if by_epoch and loop.iter != step * len(loop.dataloader):
        # the name tells more, because the batches can have another size since then
        stored = runner.message_hub.get_info('last_ckpt')
        if not isinstance(stored, str) or numbered(template, Path(stored).name) != step:
            return False  # the checkpoint was saved within an epoch
    loop._decide_current_val_interval()
    return step >= loop.val_begin and (step % loop.val_interval == 0 or step == last)
