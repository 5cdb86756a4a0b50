"""Data that the ecosystem lacks: small, real, bundled with libraries."""

from .digits import write_digits

__all__ = ['write_digits']
