"""Error of this part of the package."""

from ..errors import MmesbnnError


class PretrainedError(MmesbnnError):
    """Error about a folder or a hub from which no network can be loaded, or to which none can."""
