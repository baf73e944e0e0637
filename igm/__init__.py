"""The method: composition, objective, inference, training. It knows no dataset and no file layout of one."""


class UserError(ValueError):
    """A mistake in what the user asked for; the message is one line with the mend."""
