"""Damage to the bytes of a file, like that of disks, networks and users."""


def damaged(rng, whole):
    """Return a kind of damage and the damaged bytes."""
    data, kind = bytearray(whole), rng.choice(KINDS)
    place = rng.choice([rng.randrange(len(data)), rng.randrange(min(2048, len(data)))])
    size = rng.choice([1, 8, 64, 512])
    if kind == 'cut':
        del data[place:]
    elif kind == 'flipped bit':
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 'random bytes':
        data[place : place + size] = rng.randbytes(size)
    elif kind == 'zeros':
        data[place : place + size] = bytes(len(data[place : place + size]))
    elif kind == 'left out':
        del data[place : place + size]
    elif kind == 'put in':
        data[place:place] = rng.randbytes(size)
    elif kind == 'longer':
        data += rng.randbytes(size)
    else:
        other = rng.randrange(len(data))
        part = data[place : place + size]
        data[place : place + size] = data[other : other + len(part)]
    return kind, bytes(data)


KINDS = ('cut', 'flipped bit', 'random bytes', 'zeros', 'left out', 'put in', 'longer', 'copied')
