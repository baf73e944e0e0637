"""Everything with weights: codecs, networks, the Denoiser that joins them, and sampling."""


class ModelError(ValueError):
    """A fault in a model folder or config that the user named; the message is one line with the mend."""
