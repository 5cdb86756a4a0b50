"""Pickles that try to crash, to read outside, to fill the memory or to run code.

Each is a pair: a name, and the pickle. ``python -m tests.checkpoints.hostile FOLDER``
writes them as archives.
"""

import sys
from pathlib import Path

from tests.checkpoints.pickles import (
    BUILD,
    NEWOBJ,
    archive,
    array,
    build,
    call,
    dtype,
    name,
    plain,
    program,
    raw,
    storage,
    tensor,
    tuple_of,
)

EIGHT = raw(bytes(range(8)))
HUGE = 2**62


def dtypes():
    """Return pickles with dtypes that are not plain numbers."""
    plain_state = (3, '<', None, None, None, -1, -1, 0)
    fields = (3, '|', None, ('a',), {'a': ('f8', 0)}, 8, 1, 16)
    subarray = (3, '|', ('f8', (2**40,)), None, None, -1, -1, 0)
    return {
        'object dtype': dtype('O8', (3, '|', None, None, None, -1, -1, 63)),
        'object dtype, plain state': dtype('O'),
        'void dtype': dtype('V8', fields),
        'huge void dtype': dtype(f'V{2**31 - 1}', None),
        'structured dtype': dtype('f8', fields),
        'dtype with a subarray': dtype('f8', subarray),
        'huge string dtype': dtype(f'S{2**31 - 1}', None),
        'unicode dtype': dtype('U4'),
        'datetime dtype': dtype('M8[ns]'),
        'list of fields': dtype([('a', 'O')], None),
        'comma dtype': dtype('O,O', None),
        'dtype from a dict': dtype({'names': ['a'], 'formats': ['O']}, None),
        'byte order O': dtype('f8', (3, 'O', None, None, None, -1, -1, 0)),
        'item size': dtype('f8', (3, '<', None, None, None, 2**30, 1, 0)),
        'flags': dtype('f8', (3, '<', None, None, None, -1, -1, 63)),
        'metadata': dtype('f8', (4, *plain_state[1:], {'a': 1})),
        'dtype state too short': dtype('f8', (3, '<')),
        'dtype state none': build(dtype('f8', None), plain(None)),
        'dtype built twice': build(dtype(), plain(plain_state)),
        'dtype not built': dtype('f8', None),
        'dtype from a class': call(name('numpy', 'dtype'), name('numpy', 'ndarray')),
    }


def arrays():
    """Return pickles of arrays whose parts do not fit together."""
    wrong_core = name('numpy._core.multiarray', '_reconstruct')
    twice = array((1,), dtype(), EIGHT)
    state = tuple_of(plain(1), plain((1,)), dtype(), plain(False), EIGHT)
    cases = {f'array of {kind}': array((1,), ops, EIGHT) for kind, ops in dtypes().items()}
    return {
        **cases,
        'scalar of an object': call(
            name('numpy._core.multiarray', 'scalar'), dtypes()['object dtype'], EIGHT
        ),
        'scalar of too few bytes': call(
            name('numpy.core.multiarray', 'scalar'), dtype(), raw(b'abc')
        ),
        'scalar without bytes': call(name('numpy.core.multiarray', 'scalar'), dtype()),
        'scalar of a list': call(name('numpy.core.multiarray', 'scalar'), dtype(), plain([1])),
        'too few bytes': array((100,), dtype(), EIGHT),
        'too many bytes': array((0,), dtype(), EIGHT),
        'huge shape': array((HUGE,), dtype(), EIGHT),
        'shape that overflows': array((2**33, 2**33), dtype(), EIGHT),
        'huge shape with a zero': array((0, HUGE, HUGE), dtype(), raw(b'')),
        'negative shape': array((-1, -1), dtype(), EIGHT),
        'bool shape': array((True,), dtype(), EIGHT),
        'float shape': array((1.0,), dtype(), EIGHT),
        'many dimensions': array((1,) * 100, dtype(), EIGHT),
        'shape is no tuple': array(1, dtype(), EIGHT),
        'bytes are a list': array((1,), dtype(), plain([1.0])),
        'bytes are an array': array((1,), dtype(), array((1,), dtype(), EIGHT)),
        'bytes are a string': array((1,), dtype(), plain('abcdefgh')),
        'dtype is a string': array((1,), plain('O'), EIGHT),
        'unknown version': array((1,), dtype(), EIGHT, version=7),
        'fortran is a list': array((1,), dtype(), EIGHT, fortran=[]),
        'built twice': twice + state + BUILD,
        'array with a size': call(wrong_core, name('numpy', 'ndarray'), plain((HUGE,)), raw(b'b')),
        'array of objects by letter': call(
            wrong_core, name('numpy', 'ndarray'), plain((4,)), raw(b'O')
        ),
        'reconstruct another class': call(
            wrong_core, name('numpy', 'dtype'), plain((0,)), raw(b'b')
        ),
        'array not built': call(wrong_core, name('numpy', 'ndarray'), plain((0,)), raw(b'b')),
        'call ndarray': call(name('numpy', 'ndarray'), plain((4,)), dtype('O'), EIGHT, plain(-8)),
        'new ndarray': name('numpy', 'ndarray') + tuple_of(plain((4,))) + NEWOBJ,
        'ndarray beyond a buffer': call(
            name('numpy', 'ndarray'), plain((HUGE,)), plain('u1'), EIGHT, plain(-(2**40))
        ),
        'build on a class': build(name('numpy', 'ndarray'), plain({'a': 1})),
    }


def tensors():
    """Return pickles of tensors that reach outside their memory or need too much."""
    rebuild = name('torch._utils', '_rebuild_tensor_v2')
    layout = call(name('torch.serialization', '_get_layout'), plain('torch.sparse_coo'))
    state = tuple_of(plain(5), plain('cpu'), plain(False))
    return {
        'size beyond the storage': tensor((5,)),
        'huge size': tensor((HUGE,)),
        'offset beyond': tensor((4,), offset=1),
        'negative offset': tensor((4,), offset=-1),
        'huge offset': tensor((1,), offset=HUGE),
        'negative stride': tensor((2,), (-1,)),
        'stride beyond': tensor((2, 2), (4, 1)),
        'strides that overflow': tensor((3, 3), (2**63, 2**63)),
        'expanded to terabytes': tensor((10**13,), (0,)),
        'expanded to gigabytes': tensor((10**5, 10**4), (0, 0)),
        'empty with huge sizes': tensor((0, 2**63), (1, 1)),
        'sizes and strides differ': tensor((2, 2), (1,)),
        'size is a list': tensor([4]),
        'many dimensions': tensor((1,) * 10**4, (1,) * 10**4),
        'requires_grad is a list': tensor(grad=[]),
        'no storage': tensor(memory=plain(None)),
        'storage with more entries': tensor((1000,), memory=storage(count=1000)),
        'storage with fewer entries': tensor((1,), memory=storage(count=1)),
        'storage of a negative size': tensor((1,), memory=storage(count=-4)),
        'storage of another class': tensor((2,), memory=storage(kind='DoubleStorage')),
        'storage of no class': tensor(memory=storage(kind='Tensor')),
        'storage that is missing': tensor(memory=storage('7')),
        'storage outside': tensor(memory=storage('../data.pkl')),
        'storage on meta': tensor(memory=storage(location='meta', count=5)),
        'bare storage': storage(),
        'sparse tensor': call(name('torch._utils', '_rebuild_sparse_tensor'), layout, plain(())),
        'meta tensor': call(
            name('torch._utils', '_rebuild_meta_tensor_no_storage'),
            name('torch', 'float32'),
            plain((HUGE,)),
            plain((1,)),
            plain(False),
        ),
        'quantized tensor': call(
            name('torch._utils', '_rebuild_qtensor'),
            storage(),
            plain(0),
            plain((4,)),
            plain((1,)),
            tuple_of(name('torch', 'per_tensor_affine'), plain(1.0), plain(0)),
            plain(False),
            call(name('collections', 'OrderedDict')),
        ),
        'tensor of a size': call(name('torch', 'FloatTensor'), plain(10**12)),
        'new tensor': name('torch', 'Tensor') + tuple_of(plain(10**12)) + NEWOBJ,
        'build on a tensor': build(
            tensor(), tuple_of(storage(), plain(0), plain((10**12,)), plain((1,)))
        ),
        'parameter of a list': call(
            name('torch._utils', '_rebuild_parameter'), plain([1]), plain(True)
        ),
        'parameter of whole numbers': call(
            name('torch._utils', '_rebuild_parameter'),
            tensor(memory=storage(kind='IntStorage')),
            plain(True),
        ),
        'from another type': call(
            name('torch._tensor', '_rebuild_from_type_v2'),
            name('builtins', 'getattr'),
            name('torch', 'Tensor'),
            tuple_of(plain(1), plain('x')),
            plain({}),
        ),
        'as another type': call(
            name('torch._tensor', '_rebuild_from_type_v2'),
            rebuild,
            name('numpy', 'ndarray'),
            tuple_of(),
            state,
        ),
    }


def programs():
    """Return pickles with ops in wrong order, endless structures or forbidden names."""
    bomb, deep = plain([]), b']' * 2000 + b'a' * 1999
    for _ in range(60):
        # a list with the top of the stack twice, through the memo
        bomb += b'q\x00]h\x00ah\x00a'
    key = b')' + b'\x85' * 100_000
    history = name('mmengine.logging.history_buffer', 'HistoryBuffer')
    getter = name('builtins', 'getattr')
    return {
        'os.system': call(name('os', 'system'), plain('true')),
        'posix.system': call(name('posix', 'system'), plain('true')),
        'eval': call(name('builtins', 'eval'), plain('1')),
        'python 2 eval': call(name('__builtin__', 'eval'), plain('1')),
        'exec by path': call(name('builtins', 'exec.__call__'), plain('1')),
        'getattr init': call(getter, history, plain('__init__')),
        'getattr of numpy': call(getter, name('numpy', 'ndarray'), plain('tofile')),
        'getattr of a name': call(getter, getter, plain('call')),
        'call a statistic': call(call(getter, history, plain('min')), plain([1])),
        'swapped statistics': build(
            call(history), plain({'max_length': 1, 'statistics_methods': {'min': 1}})
        ),
        'history of lists': build(
            call(history), plain({'max_length': 1, '_log_history': [], '_count_history': []})
        ),
        'history without state': call(history),
        'huge bytearray': call(name('builtins', 'bytearray'), plain(10**12)),
        'huge bytes': call(name('builtins', 'bytes'), plain(10**12)),
        'encode to a codec': call(name('_codecs', 'encode'), plain('a'), plain('zip')),
        'hidden items': build(
            call(name('collections', 'OrderedDict')), plain({'_metadata': {'': 3}})
        ),
        'unfolds without end': bomb,
        'nested deeply': deep,
        'list in itself': b']q\x00h\x00a',
        'key that hashes deeply': b'}' + key + plain(1) + b's',
        'set of a deep tuple': call(name('builtins', 'set'), b']' + key + b'a'),
        'list as a key': b'}]' + plain(1) + b's',
        'tensor as a key': b'}' + tensor() + plain(1) + b's',
        'append to a dict': b'}' + plain(1) + b'a',
        'set an item of a list': b']' + plain((1, 2)) + b's',
        'odd items': b'}(' + plain(1) + b'u',
        'empty stack': b'R',
        'no mark': b't',
        'no memo': b'h\x07',
        'text beyond the end': b'X\xff\xff\xff\x7fabc',
        'unknown op': b'\xff',
        'inst op': b'(ios\nsystem\n',
        'obj op': b'(cos\nsystem\no',
        'extension op': b'\x82\x01',
        'stack global op': plain('os') + plain('system') + b'\x93',
        'persistent id is a number': plain(3) + b'Q',
        'size of a shape': call(name('torch', 'Size'), plain((-1,))),
        'device': call(name('torch', 'device'), plain({'a': 1})),
        'counter of a list': call(name('collections', 'Counter'), plain([[1]])),
        'class alone': name('torch', 'FloatTensor'),
        'call a class of torch': call(name('torch', 'UntypedStorage'), plain(10**12)),
    }


def copies():
    """Return pickles of a megabyte that copy one value until no memory is left."""
    text, memorised = plain('a' * 2**20), b'h\xff'
    values = {
        'bytes': (text, call(name('_codecs', 'encode'), memorised)),
        'bytearray': (raw(b'a' * 2**20), call(name('builtins', 'bytearray'), memorised)),
        'set': (plain(list(range(10**5))), call(name('builtins', 'set'), memorised)),
        'array': (raw(b'a' * 2**20), array((2**20,), dtype('u1'), memorised)),
    }
    return {
        case: value + b'q\xff' + tuple_of(*[copy] * 3000) for case, (value, copy) in values.items()
    }


def hostile():
    """Return all pickles that must be refused, by name."""
    groups = (dtypes, arrays, tensors, programs, copies)
    return {
        f'{group.__name__}: {case}': program(ops)
        for group in groups
        for case, ops in group().items()
    }


def main(folder):
    for index, data in enumerate(hostile().values()):
        archive(Path(folder) / f'{index}.pth', data)


if __name__ == '__main__':
    main(sys.argv[1])
