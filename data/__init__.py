"""Datasets. Each yields the same item: `pixel_values`, `conds`, `mask`, `image_id`; none knows a network."""


class DataError(ValueError):
    """A fault in the user's files; the message is one line that names the file and the mend."""
