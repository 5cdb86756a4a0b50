"""Sharing of a trained network on a Hugging Face hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from ..binary.arguments import MODULE
from ..checks import checked, filled_text, flag, optional
from .hub import upload
from .loading import HUB
from .saving import save_pretrained


@checked(
    model=MODULE,
    repo_id=filled_text,
    private=optional(flag),
    commit_message=optional(filled_text),
    revision=HUB['revision'],
    token=HUB['token'],
    endpoint=HUB['endpoint'],
)
def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    **saving: Any,
) -> str:
    """Upload a trained network to a Hugging Face hub, in one commit.

    The files are those of :func:`save_pretrained`; they replace files of the same names.
    :func:`from_pretrained` loads the network by its name.

    Args:
        model: As in :func:`save_pretrained`.
        repo_id: Name on the hub, ``'OWNER/NAME'``, or ``'NAME'`` for the owner of the token.
            A repository that does not exist is made.
        private: Whether a new repository is private. Default None: the hub's default.
        revision: Branch to write to; a branch that does not exist is made from ``main``.
            Default None: ``main``.
        create_pr: Whether to open a pull request instead of writing to the branch. Default
            False.
        commit_message: First line of the commit. Default None: a sentence with the version
            of this package.
        token: Token of the hub with the right to write. Default None: the stored one.
        endpoint: Address of the hub. huggingface_hub before 1.3.3 needs the same address
            in ``HF_ENDPOINT``. Default None: ``HF_ENDPOINT``, or huggingface.co.
        **saving: Arguments of :func:`save_pretrained`, such as ``config``, ``metrics`` and
            ``license``.

    Returns:
        Address of the commit, or of the pull request.

    Raises:
        PackError: If a layer is not binary (yet).
        PretrainedError: If the hub refuses the upload or cannot be reached.
        ImportError: If huggingface_hub is not installed.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, 'network')
        save_pretrained(model, folder, **{'name': repo_id, **saving})
        return upload(
            folder,
            repo_id,
            private=private,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            token=token,
            endpoint=endpoint,
        )
