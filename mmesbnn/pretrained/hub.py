"""Download from and upload to a Hugging Face hub, through ``huggingface_hub``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checks import shown
from ..errors import MmesbnnError, sentence
from ..optional import require
from ..version import __version__
from .errors import PretrainedError
from .files import CARD, CONFIG, LIBRARY, WEIGHTS

_FILES = (CONFIG, WEIGHTS)
#: Names of networks on a hub: ``NAME`` or ``OWNER/NAME``. huggingface_hub checks more.
_NAME = re.compile(r'[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?')
#: Endings of files with weights. A name with one is a path, even if it is misspelled.
_ENDINGS = ('.bin', '.ckpt', '.pt', '.pth', '.safetensors')


def _library(needed_by: str) -> Any:
    hub = require('huggingface_hub', 'hub', needed_by)
    for part in ('constants', 'errors'):  # older releases do not import them
        require(f'huggingface_hub.{part}', 'hub', needed_by)
    return hub


def is_hub_name(source: str | os.PathLike[str]) -> bool:
    """Return True if ``source`` can be a name on a hub; a ``Path`` is a place on the disk."""
    if not isinstance(source, str) or source.endswith(_ENDINGS):
        return False
    return _NAME.fullmatch(source) is not None


@contextlib.contextmanager
def _explained(hub: Any, repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the network and of the hub into a :class:`PretrainedError`.

    Libraries for the network raise many kinds of errors.
    """
    errors = hub.errors
    name = repo_id if revision is None else f'{repo_id} (revision {revision})'
    try:
        yield
    except (ImportError, MemoryError, MmesbnnError):
        raise
    except errors.LocalEntryNotFoundError as error:
        reason = 'is not in the cache, and the hub was not asked or did not answer'
        raise PretrainedError(f'{name} {reason}: {sentence(error)}') from error
    except errors.RevisionNotFoundError as error:
        raise PretrainedError(f'{name}: the hub has no such revision of it') from error
    except errors.GatedRepoError as error:
        raise PretrainedError(f'{name}: accept its conditions on the hub first') from error
    except errors.RepositoryNotFoundError as error:
        raise PretrainedError(
            f'{name}: the hub has no such network, or it is private and needs another token'
        ) from error
    except errors.EntryNotFoundError as error:
        raise PretrainedError(
            f'{name}: is no network of {LIBRARY}, it has no {" or no ".join(_FILES)}'
        ) from error
    except Exception as error:
        raise PretrainedError(f'{name}: {sentence(error)}') from error


def _check_endpoint(hub: Any, endpoint: str | None) -> None:
    """Raise an error if this release of huggingface_hub cannot upload to ``endpoint``.

    Before 1.3.3 it makes the commit and then fails, because it reads the commit's address as one
    of the hub of ``HF_ENDPOINT``.

    Raises:
        PretrainedError: If it cannot.
    """
    fields = {field.name for field in dataclasses.fields(hub.CommitInfo)}
    if endpoint is None or '_endpoint' in fields:
        return
    if endpoint.rstrip('/') != hub.constants.ENDPOINT.rstrip('/'):
        raise PretrainedError(
            f'{shown("endpoint", endpoint)}: huggingface_hub {hub.__version__} uploads to the hub '
            'of the environment variable HF_ENDPOINT only: set it, or install '
            'huggingface_hub>=1.3.3'
        )


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> Path:
    """Download ``config.json`` and ``model.safetensors`` of one commit; no other file.

    Arguments are those of :func:`mmesbnn.from_pretrained`.

    Returns:
        Folder in the cache.

    Raises:
        PretrainedError: If the hub or the cache does not have them.
        ImportError: If huggingface_hub is not installed.
    """
    hub = _library('Loading from a hub')
    options: dict[str, Any] = dict(
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
        endpoint=endpoint,
        library_name=LIBRARY,
        library_version=__version__,
    )
    with _explained(hub, repo_id, revision):
        config = Path(hub.hf_hub_download(repo_id, CONFIG, revision=revision, **options))
        # the commit, because a branch can move between two downloads
        hub.hf_hub_download(repo_id, WEIGHTS, revision=config.parent.name, **options)
    return config.parent


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload the folder of a network in one commit; a new repository is made if needed.

    Arguments are those of :func:`mmesbnn.push_to_hub`.

    Returns:
        Address of the commit.

    Raises:
        PretrainedError: If the hub refuses it or cannot be reached, or if an old release of
            huggingface_hub cannot upload to ``endpoint``.
        ImportError: If huggingface_hub is not installed.
    """
    hub = _library('Uploading to a hub')
    _check_endpoint(hub, endpoint)
    api = hub.HfApi(
        endpoint=endpoint, token=token, library_name=LIBRARY, library_version=__version__
    )
    with _explained(hub, repo_id, revision):
        # the hub answers with the whole name, with the owner
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(name, branch=revision, exist_ok=True)
        files = [
            hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=str(folder / file))
            for file in (*_FILES, CARD)
        ]
        commit = api.create_commit(
            name,
            files,
            commit_message=commit_message or f'Upload a network of {LIBRARY} {__version__}',
            revision=revision,
            create_pr=create_pr,
        )
    return commit.pr_url if create_pr else commit.commit_url
