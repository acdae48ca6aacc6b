"""The errors that a user can cause, and their common base."""


class ShardFMError(Exception):
    """A mistake of the user or of the surroundings, told in one message without a traceback.

    The message names the key or file, the value, the rule that it breaks and the remedy.
    """


class DataError(ShardFMError):
    """Something in the schema or in the data files is not as declared."""


class StorageError(DataError):
    """Where the data lies cannot be reached: says nothing about the data, and is never skipped over."""
