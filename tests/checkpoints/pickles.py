"""Pickles and archives written by hand, as an attacker would."""

import pickle
import struct
import zipfile

#: A pickle's ops for a name: ``name('numpy', 'dtype')``.
REDUCE, BUILD, NEWOBJ, STOP, MARK = b'R', b'b', b'\x81', b'.', b'('


def name(module, attribute):
    return f'c{module}\n{attribute}\n'.encode()


def plain(value):
    """Return the ops that push a plain value."""
    ops = pickle.dumps(value, 2)
    return ops[2:-1]


def raw(data):
    """Return the ops that push bytes in protocol 2."""
    return (
        name('_codecs', 'encode') + tuple_of(plain(data.decode('latin1')), plain('latin1')) + REDUCE
    )


def tuple_of(*ops):
    return MARK + b''.join(ops) + b't'


def call(function, *arguments):
    return function + tuple_of(*arguments) + REDUCE


def build(target, state):
    return target + state + BUILD


def program(*ops):
    return b'\x80\x02' + b''.join(ops) + STOP


def dtype(kind='f8', state=(3, '<', None, None, None, -1, -1, 0)):
    made = call(name('numpy', 'dtype'), plain(kind), plain(False), plain(True))
    return made if state is None else build(made, plain(state))


def array(shape, kind, data, core='numpy._core.multiarray', version=1, fortran=False):
    """Return the ops of an array; ``kind`` and ``data`` are ops."""
    empty = call(name(core, '_reconstruct'), name('numpy', 'ndarray'), plain((0,)), raw(b'b'))
    state = tuple_of(plain(version), plain(shape), kind, plain(fortran), data)
    return build(empty, state)


def storage(key='0', count=4, kind='FloatStorage', location='cpu'):
    """Return the ops of a storage, by its persistent id."""
    pid = tuple_of(plain('storage'), name('torch', kind), plain(key), plain(location), plain(count))
    return pid + b'Q'


def tensor(size=(4,), stride=(1,), offset=0, grad=False, memory=None):
    hooks = call(name('collections', 'OrderedDict'))
    return call(
        name('torch._utils', '_rebuild_tensor_v2'),
        storage() if memory is None else memory,
        plain(offset),
        plain(size),
        plain(stride),
        plain(grad),
        hooks,
    )


def archive(path, data, members=None, compression=zipfile.ZIP_STORED):
    """Write an archive as ``torch.save`` does, around the pickle ``data``."""
    members = {'data/0': struct.pack('<4f', 1, 2, 3, 4)} if members is None else members
    with zipfile.ZipFile(path, 'w', compression) as file:
        for member, content in {
            'data.pkl': data,
            'byteorder': b'little',
            **members,
            'version': b'3\n',
        }.items():
            file.writestr(f'archive/{member}', content)
    return path
