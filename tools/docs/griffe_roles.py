"""Docstrings of the package as Markdown, for the API reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

#: ``:class:`~mmesbnn.binary.ESConv2d` `` and similar.
ROLE = re.compile(r':(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`')
#: A paragraph that ends with ``::`` before a block of code.
BLOCK = re.compile(r'::$', re.MULTILINE)
#: Classes whose constructor is that of a class of another package, which griffe cannot see.
FOREIGN = ('BinaryOptimWrapperConstructor',)


def as_markdown(text: str) -> str:
    """Return a docstring whose roles and blocks are in the syntax of Markdown."""

    def name(found: re.Match[str]) -> str:
        return f'`{found[2].rpartition(".")[2] if found[1] else found[2]}`'

    return BLOCK.sub(':', ROLE.sub(name, text))


class Roles(griffe.Extension):
    """Extension of griffe that adapts every docstring."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Adapt the docstring of an object that griffe has read."""
        if obj.docstring:
            text = as_markdown(obj.docstring.value)
            if obj.name in FOREIGN:
                text = text.replace('\nArgs:\n', '\nArguments of the base class:\n')
            obj.docstring.value = text
