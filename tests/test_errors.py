"""One bounded, printable line for any error."""

import errno

import pytest

from mmesbnn.errors import LONGEST_MESSAGE, MmesbnnError, printable, sentence, shorten


def test_short_lines_stay_as_they_are():
    assert shorten('tau=3 does not divide 64: ä, 二') == 'tau=3 does not divide 64: ä, 二'


def test_lines_are_joined_and_escaped():
    assert shorten('a\n  b\tc\x1b[31m\x00d\udcff') == 'a b c\\x1b[31m\\x00d\\udcff'


def test_a_name_is_printed_in_one_line_and_in_full():
    assert printable('ä  二.png') == 'ä  二.png'
    assert printable('a\n\x1b[2J\x9b\udcff' + 999 * 'b') == 'a\\n\\x1b[2J\\x9b\\udcff' + 999 * 'b'


@pytest.mark.parametrize('longest', [20, 100, LONGEST_MESSAGE])
@pytest.mark.parametrize('length', [19, 21, 99, 101, 400, 601, 5_000, 2_000_000])
@pytest.mark.parametrize('letter', ['x', 'x ', '\x1b'])
def test_long_lines_keep_their_ends(longest, length, letter):
    text = f'start {letter * length} end'
    short = shorten(text, longest)
    assert len(short) <= longest
    assert short.startswith('start') and short.endswith('end')
    assert short.isprintable()


@pytest.mark.parametrize(
    ('error', 'text'),
    [
        (ValueError('tau=3'), 'tau=3'),
        (MmesbnnError('two\nlines'), 'two lines'),
        (KeyError('no such name'), 'no such name'),
        (OSError(errno.ENOSPC, 'No space left', 'x.png'), 'No space left: x.png'),
        (OSError(errno.ENOSPC, 'No space left'), '[Errno 28] No space left'),
        (OSError('a text'), 'a text'),
        (MemoryError(), 'MemoryError'),
    ],
)
def test_sentences(error, text):
    assert sentence(error) == text


def test_names_that_are_no_text_are_shown():
    with pytest.raises(UnicodeEncodeError) as caught:
        'caf\udce9'.encode()
    assert sentence(caught.value) == "'caf\\udce9' cannot be written as utf-8"
