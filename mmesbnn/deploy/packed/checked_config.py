"""Check of a config from a file before anything is built from it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NoReturn

import mmengine.registry.registry as mmengine_registry

from ...binary.entries import own_entries_only
from ...errors import shorten
from ...models.classifiers import student_config
from ...plain_values import ConfigError
from ...project import FACTS, image_facts
from ...project.data import tested_dataset
from .stored_components import SCOPES, WORDS, listed_components

#: Advice for a user who wants to use such a config.
_TRUST = (
    'give the config yourself, or, if you trust the file, trust_stored_config=True '
    '(--trust-stored-config), which builds any class the file names and so can run code'
)

#: Arguments that name a place or code to run. No listed class needs one of them to be
#: built. With an empty value they have no effect.
_PLACES = {
    'ann_file',
    'checkpoint',
    'config',
    'config_file',
    'custom_imports',
    'data_prefix',
    'data_root',
    'download',
    'load_from',
    'model_name',
    'name_or_path',
    'path',
    'pretrained',
    'repo_id',
    'resume_from',
    'teacher',
    'teacher_ckpt',
    'teacher_config',
    'teachers',
    'trust_remote_code',
    'url',
    'weights_file',
}
#: Lists that mmseg reads from a file, even a pickle, if the value is a text.
NO_WORDS = ('class_weight',)
#: Arguments that say how images are read. They may name the disk only.
_BACKENDS = ('backend_args', 'file_client_args')
_DISK: tuple[dict[str, str] | None, ...] = (None, {}, {'backend': 'local'}, {'backend': 'disk'})

#: A word, a number, or a pattern of module names, but no path, URL or expression.
_WORD = re.compile(r'[\w .,*?+-]{0,200}')
#: Largest number in a config. A list of this length takes little memory, and no network
#: needs a larger number.
_LARGEST = 2**24
_FILE = re.compile(
    r'\.(bin|ckpt|json|npy|npz|pickle|pkl|pt|pth|py|safetensors|so|txt|yaml|yml|zip)$',
    re.IGNORECASE,
)


def _refuse(what: Any, value: Any, rule: str) -> NoReturn:
    given = f'{shorten(str(what), 60)}={shorten(repr(value), 100)}'
    raise ConfigError(f'{given} in the stored config {rule}: {_TRUST}')


def _check_scope(key: str, scope: Any) -> str | None:
    if scope is None or scope == 'mmengine':
        return None
    if not isinstance(scope, str) or scope not in SCOPES:
        _refuse(key, scope, f'must be one of {(*SCOPES, "mmengine")}')
    return scope


def _registered_name(value: Any) -> Any:
    """Return the name of a component that is named by its place.

    mmengine writes so the classes of a config in pure Python: ``mmpretrain.models.ImageClassifier``
    stands for ``mmpretrain.ImageClassifier``. Other packages register without a scope.
    """
    root, *places = value.split('.') if isinstance(value, str) else ('',)
    if places and root in ('mmcv', 'mmengine', 'mmesbnn'):
        return places[-1]
    return f'{root}.{places[-1]}' if len(places) > 1 and root in SCOPES else value


def _check_type(kind: str, value: Any, scope: str | None) -> None:
    prefix, _, name = value.rpartition('.') if isinstance(value, str) else ('', '', '')
    if prefix not in ('', *SCOPES):
        _refuse('type', value, 'is not a component that a file may name')
    if kind == 'model' and prefix == '' and name in WORDS:
        return
    if not listed_components(kind, name, prefix or scope):
        _refuse('type', value, 'is not a component that a file may name')


def _check_word(key: str, value: str) -> None:
    if not _WORD.fullmatch(value) or '..' in value or _FILE.search(value):
        _refuse(key, value, 'must be a word, not a path, URL or expression')


def _check(kind: str, key: str, value: Any, scope: str | None) -> Any:
    """Return the checked value, without the configs of weight initialisation."""
    if isinstance(value, Mapping):
        return _check_dict(kind, value, scope)
    if isinstance(value, (list, tuple)):
        return type(value)([_check(kind, key, entry, scope) for entry in value])
    if isinstance(value, str):
        if key in NO_WORDS:
            _refuse(key, value, 'must be a list')
        _check_word(key, value)
    if type(value) is int and abs(value) > _LARGEST:
        _refuse(key, value, f'must be at most {_LARGEST}')
    return value


def _check_dict(kind: str, config: Mapping[str, Any], scope: str | None) -> dict[str, Any]:
    if '_scope_' in config:
        scope = _check_scope('_scope_', config['_scope_'])
    if 'type' in config:
        _check_type(kind, _registered_name(config['type']), scope)
    checked = {}
    for key, value in config.items():
        if key in ('type', '_scope_'):
            checked[key] = _registered_name(value) if key == 'type' else value
        elif key == 'init_cfg':  # the weights come from the file
            continue
        elif not re.fullmatch(r'[A-Za-z0-9]\w*', str(key)):
            _refuse('the key', key, 'must be the name of an argument')
        elif key in _BACKENDS:
            if value not in _DISK:
                _refuse(key, value, 'must be the disk')
        elif key in _PLACES:
            if value:
                _refuse(key, value, 'must be left out')
        else:
            checked[key] = _check(kind, key, value, scope)
    return checked


def checked_dataset_meta(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the meta data of a config's test data set, and of its listed class.

    Args:
        config: Config of a known scope.

    Raises:
        ConfigError: If ``metainfo`` is not plain.
    """
    dataset = tested_dataset(config)
    metainfo = dataset.get('metainfo') or {}
    if not isinstance(metainfo, Mapping) or any(
        isinstance(value, (str, Mapping)) for value in metainfo.values()
    ):  # data sets interpret strings here as names of files
        _refuse('metainfo', metainfo, 'must be a dict of lists')
    if isinstance(dataset.get('classes'), (list, tuple)):  # an option of mmpretrain's data sets
        metainfo = {'classes': dataset['classes'], **metainfo}
    if 'classes' in metainfo or not isinstance(dataset.get('type'), str):
        return dict(metainfo)
    scope = _check_scope('default_scope', config.get('default_scope'))
    prefix, _, name = _registered_name(dataset['type']).rpartition('.')
    if prefix not in ('', *SCOPES):
        return dict(metainfo)
    found = listed_components('dataset', name, prefix or scope)
    return {**(getattr(found[0], 'METAINFO', {}) if found else {}), **metainfo}


def checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a stored config that is needed to use its network.

    This part is the deployed model and the preparation of its images. The pipeline of the
    test data set and the names of its classes are kept. Its place is not kept, because a
    file must not make a program read a data set.

    Args:
        config: Config that was read from a file.

    Returns:
        Config with ``default_scope``, ``model``, ``data_preprocessor``,
        ``test_dataloader``, whose data set has no type, and what it says about images, see
        :func:`mmesbnn.project.image_facts`.

    Raises:
        ConfigError: If it names components that are not listed, has a path, a URL or
            similar, or has no model; the message says what the user can do.
        ImportError: If the package of its scope is not installed.
    """
    scope = _check_scope('default_scope', config.get('default_scope'))
    if not isinstance(config.get('model'), Mapping):
        raise ConfigError('the stored config has no model')
    part: dict[str, Any] = {'default_scope': scope} if scope else {}
    model = student_config(dict(config['model']))
    part['model'] = _check_dict('model', model, scope)
    if 'type' not in part['model']:
        raise ConfigError('the model of the stored config has no type')
    preprocessor = config.get('data_preprocessor')
    if preprocessor:
        if not isinstance(preprocessor, Mapping):
            _refuse('data_preprocessor', preprocessor, 'must be a dict')
        part['data_preprocessor'] = _check_dict('model', preprocessor, scope)
    pipeline = tested_dataset(config).get('pipeline') or config.get('test_pipeline') or []
    if not isinstance(pipeline, (list, tuple)):
        _refuse('pipeline', pipeline, 'must be a list')
    steps = _check('transform', 'pipeline', list(pipeline), scope)
    part['test_dataloader'] = {
        'dataset': {'metainfo': checked_dataset_meta(config), 'pipeline': steps}
    }
    facts = _check_dict('transform', _image_facts(config), scope)
    return {**part, FACTS: facts} if facts else part


def _image_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return image_facts(config)
    except (AttributeError, KeyError, TypeError):  # data sets that are no data sets
        return {}


_names_only: ContextVar[bool] = ContextVar('names_only', default=False)
_from_string = mmengine_registry.get_object_from_string


def _unless_names_only(name: str) -> Any:
    return None if _names_only.get() else _from_string(name)


@contextlib.contextmanager
def names_only() -> Iterator[None]:
    """Let registries find registered names only, without importing modules by name.

    Otherwise mmengine interprets a name that is not registered as the path of an object
    and imports its module, also from the current folder. Signs and weight binarizers are
    those of this package.
    """
    mmengine_registry.get_object_from_string = _unless_names_only
    token = _names_only.set(True)
    try:
        with own_entries_only():
            yield
    finally:
        _names_only.reset(token)
